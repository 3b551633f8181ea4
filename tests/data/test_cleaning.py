"""Captions keep what they say of the picture, and lose what pages add."""

import pytest

from data.cleaning import clean_caption


@pytest.mark.parametrize(
    "caption, wanted",
    [
        ("A red square.", "A red square."),
        ("<b>A cat</b> &amp;amp; a dog<br/>", "A cat & a dog"),
        ("size < 3 and > 1", "size < 3 and > 1"),
        ("A car, see https://example.com/a?b=c now", "A car, see now"),
        ("A dog | www.stock-photos.com", "A dog"),
        ("by me@example.co.uk, 2010", "by, 2010"),
        ("IMG_0001.jpg", ""),
        ("U.S.A. flag at 3.5 km. Great", "U.S.A. flag at 3.5 km. Great"),
        ("A cat [1920x1080] (stock (photo)) {id}", "A cat"),
        ("[a cat]", "a cat"),
        ("“A cat”", "A cat"),
        ('He said "hi"', 'He said "hi"'),
        ('"hi" he said', '"hi" he said'),
        ('"A cat', "A cat"),
        ("dogs' toys", "dogs' toys"),
        ('""', ""),
        (" - Un café noir —  ", "Un café noir"),
        ("一只猫 【图】", "一只猫"),
        ("", ""),
    ],
)
def test_cleaning(caption, wanted):
    assert clean_caption(caption) == wanted
    assert clean_caption(wanted) == wanted, "cleaning is done once"


@pytest.mark.parametrize("text", ["a.", "(", "<a", "a@", "www.", "&amp;", '"', "[]"])
def test_long_nonsense_ends(text):
    assert len(clean_caption(text * 1_000_000)) <= 4096
