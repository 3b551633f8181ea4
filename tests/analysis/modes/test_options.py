"""Options: declared once, checked the same from Python and the shell, explained by `help()`."""

# ruff: noqa: B008  an option is declared as the default of an argument

import argparse
import inspect

import numpy as np
import pytest
import torch

from analysis.modes import MODES, text_to_image
from analysis.modes.kinds import interval, real, seeds, several, whole, words
from analysis.modes.options import ELSEWHERE, Option, Settings, options_of
from analysis.modes.table import Input, mode

NAMES = {
    "guidance_scale": "scale",
    "num_inference_steps": "steps",
    "generator": "seed",
    "num_images_per_prompt": "n",
}


@pytest.mark.parametrize(("theirs", "ours"), NAMES.items())
def test_names_of_other_programs_are_told_ours(theirs, ours):
    with pytest.raises(TypeError, match=rf"{theirs} \({theirs} is called {ours} here\): choose"):
        text_to_image(None, "a ring", **{theirs: 3})


def test_every_hint_leads_to_an_option_or_an_input():
    known = {name for mode in MODES.values() for name in (*mode.options, *mode.inputs)}
    assert set(ELSEWHERE.values()) <= known and not set(ELSEWHERE) & known


@pytest.mark.parametrize(
    ("kind", "value", "result"),
    [
        (whole(1, 10), np.int32(3), 3),
        (real(0, 1), np.float32(0.5), 0.5),
        (real(0, 1), 1, 1.0),
        (several(real()), 0.5, [0.5]),
        (several(real()), torch.tensor([0.0, 1.0]), [0.0, 1.0]),
        (several(real()), range(2), [0.0, 1.0]),
        (interval(), (3, np.int64(9)), (3.0, 9.0)),
        (seeds(), np.int64(7), 7),
        (seeds(), [5], [5]),
        (seeds(), range(3), [0, 1, 2]),
        (seeds(), torch.tensor([4, 2]), [4, 2]),
        (words(), " ", None),
        (words(), ["a ring"], "a ring"),
    ],
)
def test_values_of_any_type_are_the_same(kind, value, result):
    checked = kind.check("x", value)
    assert checked == result and type(checked) is type(result)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (whole(1, 10), 11, "x is 11: give a whole number from 1 to 10"),
        (whole(1, 10), True, "x is True: give a whole number"),
        (whole(1, 10), "3", "x is '3': give a whole number"),
        (real(0, 1), float("nan"), "x is nan: give a number from 0 to 1"),
        (real(0, 1), 1e400, "x is inf"),
        (real(0, 1), 10**400, r"x is 10000.*\.\.\.: give a number from 0 to 1"),
        (several(real()), [], "x has 0 values: give at least one"),
        (several(real()), [0.5, 2], "x is 2: give a number"),
        (several(real()), "half", "x is 'half'"),
        (interval(), (9, 3), "give the lower timestep first"),
        (interval(), 5, "give two timesteps"),
        (seeds(), -1, "x is -1"),
        (seeds(), 2**63, "x is 9223372036854775808"),
        (seeds(), [], "x is an empty list"),
        (seeds(), [1, 2.5], "x is 2.5"),
        (seeds(), "20", "x is '20'"),
    ],
)
def test_values_that_are_not_allowed_are_one_sentence(kind, value, message):
    with pytest.raises(ValueError, match=message) as error:
        kind.check("x", value)
    assert len(str(error.value).splitlines()) == 1


def test_settings_check_everything_and_record_what_is_to_be_kept():
    settings = Settings(scale=np.float32(3), interval=(200, 900), height=32)
    assert (settings.scale, settings.steps, settings.eta) == (3.0, None, 0.0)
    record = settings.record("image")
    assert record["interval"] == [200.0, 900.0] and record["height"] == 32
    assert not {"n", "seed", "batch_size", "start", "latents"} & set(record)
    assert not {"height", "width"} & set(settings.record("text"))
    with pytest.raises(ValueError, match="eta is 2"):
        Settings(eta=2)
    with pytest.raises(ValueError, match="eta is None"):
        Settings(eta=None)


@pytest.mark.parametrize("name", list(MODES))
def test_signature_and_help_follow_from_the_declarations(name):
    function = MODES[name].function
    parameters = inspect.signature(function).parameters
    options = MODES[name].options
    assert list(parameters) == ["vd", *MODES[name].inputs, *options, "progress"]
    for option, declared in options.items():
        assert parameters[option].default == declared.default
        assert f"\n    {option}: " in function.__doc__
        assert declared.help.split()[0] in function.__doc__
    assert list(inspect.signature(function.job).parameters) == list(parameters)[:-1]


def test_every_setting_is_in_every_mode_that_has_a_use_for_it():
    shared = options_of(Settings)
    for mode_ in MODES.values():
        missing = set(shared) - set(mode_.options)
        if mode_.name in ("edit", "encode"):  # nothing in them is drawn at random
            continue
        other = {"image": ("temperature",), "text": ("height", "width")}.get(mode_.makes, ())
        assert missing == set(other), mode_.name


def test_the_shell_reads_what_python_takes():
    parser = argparse.ArgumentParser(exit_on_error=False)
    declared = {
        "seed": Option(None, seeds(), "."),
        "levels": Option([0.5], several(real(-2, 2)), ".", flags=("--level", "--levels")),
        "interval": Option(None, interval(), "."),
        "words": Option(None, words(), "."),
        "count_of": Option(1, whole(1, 5), "."),
    }
    for name, option in declared.items():
        option.add_to(parser, name)
    line = "--seed 3,4 --level -2 0.5 --interval 5 9 --words a --words b --count-of 4"
    given = vars(parser.parse_args(line.split()))
    checked = {name: declared[name].check(name, value) for name, value in given.items()}
    assert checked == {
        "seed": [3, 4],
        "levels": [-2.0, 0.5],
        "interval": (5.0, 9.0),
        "words": ["a", "b"],
        "count_of": 4,
    }
    assert vars(parser.parse_args([])) == {}  # so that the mode's own defaults count
    for bad in ("--count-of 9", "--count-of x", "--level 3"):
        with pytest.raises(argparse.ArgumentError, match=r"is not allowed: give"):
            parser.parse_args(bad.split())


def test_a_mode_is_a_function_and_all_follows():
    """What one writes to add a mode, and what one has then."""

    @mode("trial", makes="image", summary="nothing", example="trial a --much 2")
    def trial(
        vd,
        texts=Input("text", "what to try"),
        *,
        much=Option(1, whole(1, 3), "how much"),
        secret=Option(None, real(), "not for records", recorded=False),
        request,
    ):
        """A mode that hands back what it is given."""
        return vd, texts, much, secret, request

    try:
        assert MODES["trial"].function is trial
        vd, texts, much, secret, request = trial.job("model", "a", much=np.int64(2), secret=0.5)
        assert (vd, texts, much, secret) == ("model", "a", 2, 0.5)
        assert (request.mode, request.record) == ("trial", {"much": 2})
        assert request.settings == Settings()
        assert "much: how much (1 to 3; default 1)." in trial.__doc__
        with pytest.raises(TypeError, match="trial needs texts: what to try"):
            trial.job("model")
        with pytest.raises(TypeError, match="takes the model and texts in this order"):
            trial.job("model", "a", 2)
        with pytest.raises(TypeError, match="takes the model and texts in this order"):
            trial.job("model", "a", texts="b")
        with pytest.raises(ValueError, match="much is 4"):
            trial.job("model", "a", much=4)
    finally:
        del MODES["trial"]


def test_a_number_of_thousands_of_digits_is_one_sentence():
    """pytest cannot write it down as a parameter, and Python in no sentence."""
    for kind, what in ((whole(1, 10), "a whole number from 1"), (real(), "a number from 0")):
        with pytest.raises(ValueError, match=f"x is a number of thousands of digits: give {what}"):
            kind.check("x", 10**5000)
