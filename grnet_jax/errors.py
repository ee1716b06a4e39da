"""The one base of errors that a user can mend, and the commonest check."""


class InputError(ValueError):
    """Something given from outside is wrong: a config field, a file, a folder.

    The message says what was given, what was expected and what to do; commands print it
    without a traceback.
    """


def check_at_least(field: str, value: float, least: float) -> None:
    """Raises InputError, naming the config field, where its value is too small."""
    if value < least:
        raise InputError(f"{field}: expected {least} or more, got {value}")
