"""JSON that people and killed processes leave: read, or one sentence."""

import json

import pytest

from lib.checks import DEEPEST, parse_json, read_json


def nested(levels: int, mark: str = "[]") -> str:
    return mark[0] * levels + mark[1] * levels


def test_json_is_read():
    text = '{"a": [1, {"b": null}], "\u00e9": "x"}'
    assert parse_json(text) == parse_json(text.encode()) == {"a": [1, {"b": None}], "\u00e9": "x"}
    assert parse_json(b"\xef\xbb\xbf[1]") == parse_json("[1]".encode("utf-16")) == [1]


def test_json_has_so_many_levels():
    deepest = parse_json(nested(DEEPEST))
    assert json.loads(json.dumps(deepest, indent=1)) == deepest
    for text in (nested(DEEPEST).replace("[]", "[1]"), '{"a":' * DEEPEST + "0" + "}" * DEEPEST):
        assert parse_json(text) == json.loads(text)
    for levels in (DEEPEST + 1, 900, 5000, 100_000):
        for text in (nested(levels), '{"a":' * levels + "0" + "}" * levels):
            with pytest.raises(ValueError, match="nested too deeply"):
                parse_json(text)
    with pytest.raises(ValueError):  # whose end is missing, too
        parse_json("[" * 100_000)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[" * 100_000, "it is nested too deeply"),
        (b"\xff\xfe\xfa", "codec can't decode"),
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[1]", "not a JSON object"),
        (b"9" * 5000, ""),
    ],
)
def test_a_damaged_file_is_one_sentence(content, why, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_json(path, "write it anew")
    said = str(error.value)
    assert said.startswith(f"{path} is damaged (") and said.endswith("): write it anew.")
    assert why in said and len(said) < 300


def test_an_object_is_read_from_its_file(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
