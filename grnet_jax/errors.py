"""The base of errors that a user can mend; commands print them without a traceback."""

from input_pipeline import ArgumentParser, InputError

__all__ = ["ArgumentParser", "InputError", "check_at_least"]


def check_at_least(field: str, value: float, least: float) -> None:
    """Raises InputError, naming the config field, where its value is too small."""
    if value < least:
        raise InputError(f"{field}: expected {least} or more, got {value}")
