"""One builder per benchmark, all writing the records of `records.py`."""
