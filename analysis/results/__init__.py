"""A result, on disk, and shown: sheets, films, figures, a page to compare on."""

from analysis.results.outputs import OUT, Saved, prepare, read, read_record, save
from analysis.results.result import Result, joined

__all__ = ["OUT", "Result", "Saved", "joined", "prepare", "read", "read_record", "save"]
