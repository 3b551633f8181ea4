"""What `python -m training` says to people."""

import json

import pytest
from PIL import Image

from training.__main__ import OF_DATA, OF_STAGES, _parser, main
from training.recipes import chosen


def test_flows_before_their_encoders_are_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("training.vocabulary.CORPUS", 50)
    out = tmp_path / "model"
    arguments = ["flows", "--runs", str(tmp_path), "--out", str(out), "--scenes", "64"]
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert str(out) in error


def test_another_seed_is_another_run_of_the_recipe():
    args = _parser().parse_args(["flows", "--seed", "3"])
    assert chosen(args, "flows").recipes["flows"][0].seed == 3
    args = _parser().parse_args(["flows"])
    assert chosen(args, "flows").recipes["flows"][0].seed == 0


@pytest.mark.parametrize(
    ("wrong", "allowed"),
    [
        (["sleep"], "choose from"),
        (["flows", "--steps", "0"], "'0': give a whole number from 1 to 1000000000"),
        (["flows", "--steps", "x"], "'x': give a whole number"),
        (["flows", "--steps", "9" * 5000], "give a whole number from 1 to 1000000000"),
        (["flows", "--threads", "100000"], "give a whole number from 1 to 1024"),
        (["flows", "--batch", "1000000000000"], "give a whole number from 1 to 100000"),
        (["clip", "--max-file", "0"], "'0': give a whole number from 1 to 1000000"),
        (["flows", "--lora", "100000"], "give a whole number from 1 to 4096"),
        (["flows", "--seed", "-1"], "'-1': give a whole number from 0 to 1000000000"),
        (["flows", "--lr", "nan"], "'nan': give a number from 1e-12 to 1"),
        (["flows", "--min-snr", "-5"], "'-5': give a number from 0.001 to 1e+06"),
        (["flows", "--min-snr", "1e400"], "'1e400': give a number from"),
        (["clip", "--max-watermark", "inf"], "'inf': give a number from 0 to 1"),
    ],
)
def test_wrong_arguments_are_refused(wrong, allowed, capsys):
    with pytest.raises(SystemExit) as stop:
        main(wrong)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert wrong[-1][:40] in error and allowed in error and len(error) < 250


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (KeyboardInterrupt(), 130, "stopped; the same command goes on from the last checkpoint"),
        (ValueError("lr is 2: give less."), 2, "error: lr is 2: give less."),
        (PermissionError(13, "Permission denied", "runs"), 1, "error: Permission denied (runs)."),
        (FloatingPointError("loss not finite"), 1, "error: loss not finite"),
        (
            RuntimeError("CUDA out of memory.\nTried"),
            1,
            "error: CUDA out of memory. Try a smaller --batch.",
        ),
        (MemoryError(), 1, "error: out of memory. Try a smaller --batch."),
    ],
)
def test_the_exit_status_says_whose_fault_it_was(error, status, sentence, capsys, monkeypatch):
    """2: what was asked for; 1: the machine, or the training; 130: whoever pressed Ctrl-C."""

    def failing(name, args):
        raise error

    monkeypatch.setattr("training.stages.run", failing)
    assert main(["classifier"]) == status
    assert capsys.readouterr().err == f"{sentence}\n"


EVERYWHERE = {
    *("stage", "data", "init", "preset", "runs", "dry_run", "steps", "batch", "accumulate", "lr"),
    *("seed", "optimizer", "track", "threads", "device"),
}


def test_every_option_says_where_it_acts():
    """A new one has to be put into one of these lists."""
    options = {action.dest for action in _parser()._actions} - {"help"}
    assert options == EVERYWHERE | {*OF_STAGES} | {*OF_DATA}
    assert not EVERYWHERE & ({*OF_STAGES} | {*OF_DATA})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        *(
            (f"autoencoder --data {data} {option}", f"with --data {data}: it is for pictures")
            for data in ("scenes", "emoji")
            for option in ("--side 32", "--fit pad", "--mirror", "--min-side 9", "--clean")
        ),
        ("flows --max-watermark 0.5", "with --data scenes: it is for pictures of your own;"),
        ("all --outside", "with --data scenes: it is for pictures of your own;"),
        ("clip --data emoji --scenes 9", "with --data emoji: it is for scenes;"),
        ("flows --data mine --cached 9", "with --data mine: it is for scenes;"),
        ("optimus --data mine --exchanged 0.1", "with --data mine: it is for scenes;"),
        ("clip --cached 9", "in stage clip: it is for flows;"),
        ("classifier --scenes 9", "in stage classifier: it is for autoencoder, clip, optimus, f"),
        ("clip --exchanged 0.1", "in stage clip: it is for optimus, flows;"),
        ("clip --flows t2i", "in stage clip: it is for flows;"),
        ("optimus --freeze text_data", "in stage optimus: it is for flows;"),
        ("optimus --min-snr 5", "in stage optimus: it is for flows;"),
        ("clip --shard", "in stage clip: it is for flows;"),
        ("all --shard", "--shard divides the diffuser: give it with stage flows"),
        ("flows --lora-layers attention", "--lora-layers says what --lora RANK adapts"),
        ("flows --init x --lora 2 --max-file 9", "--max-file does nothing with --lora"),
        ("flows --init x --lora 2 --freeze text_data", "--freeze does nothing with --lora"),
        ("classifier --max-file 9", "in stage classifier: it is for autoencoder"),
        ("classifier --out x", "in stage classifier: it is for autoencoder"),
        ("classifier --checkpoint-activations", "in stage classifier: it is for autoencoder"),
        ("optimus --teacher", "in stage optimus: it is for clip;"),
        ("flows --anchor 0", "in stage flows: it is for optimus;"),
        ("flows --judge x", "in stage flows: it is for classifier;"),
        ("all --data mine --judge x", "in stage all: it is for classifier;"),
        ("flows --shard --optimizer muon", "Muon moves whole matrices, which --shard divides"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_what_would_be_ignored_is_refused(arguments, sentence, dry, capsys, monkeypatch):
    monkeypatch.setattr("training.stages.run", lambda name, args: pytest.fail("it was trained"))
    assert main([*arguments.split(), *dry]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert sentence in error


@pytest.mark.parametrize(
    "arguments",
    [
        "all --data mine --side 32 --fit pad --mirror --min-side 9 --max-watermark 0.5 --clean",
        "all --scenes 9 --cached 9 --judge x --out y --max-file 9 --teacher --flows t2i",
        "flows --data emoji --min-snr 5 --freeze text_data --checkpoint-activations --shard",
        "flows --init vd-mini --lora 2 --lora-layers attention --out x --cached 9",
        "flows --exchanged 0.5 --flows i2t --max-file 9 --optimizer muon",
        "optimus --init x.pt --anchor 1 --exchanged 0.5 --data scenes --scenes 9",
        "classifier --data emoji --judge x --steps 3 --batch 4 --track tensorboard --threads 1",
        "autoencoder --fit crop --min-side 1",  # which is how it is anyway
    ],
)
def test_what_acts_is_taken(arguments, monkeypatch):
    asked = []
    monkeypatch.setattr("training.stages.run", lambda name, args: asked.append(name) or {})
    assert main(arguments.split()) == 0
    assert asked


@pytest.mark.parametrize("options", [[], ["--outside"]])
def test_lists_lead_out_of_their_folder_only_if_that_is_allowed(options, tmp_path, monkeypatch):
    folder, seen = tmp_path / "set", []
    folder.mkdir()
    for k, name in enumerate(names := ["set/0.png", "set/1.png", "secret.png"]):
        Image.new("RGB", (8, 8), (90 * k, 0, 0)).save(tmp_path / name)
    rows = [{"file_name": f"../{name}", "text": name} for name in names]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(
        "training.stages._run", lambda name, args, data, *_: seen.append(data) or {}
    )
    runs = tmp_path / "runs"
    main(["clip", "--data", str(folder), "--runs", str(runs), "--side", "64", *options])
    entries = [entry for part in seen[0].samples("clip") for entry in part.entries]
    assert sorted(entry.captions[0] for entry in entries) == sorted(names if options else names[:2])
