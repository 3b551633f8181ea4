"""Captions and search for folders of pictures."""
