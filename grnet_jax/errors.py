"""The base of errors that a user can mend; commands print them without a traceback."""

import argparse

from input_pipeline import ArgumentParser, InputError, program_name

__all__ = ["ArgumentParser", "InputError", "check_at_least", "parse_box", "program_name"]


def check_at_least(field: str, value: float, least: float) -> None:
    """Raises InputError, naming the config field, where its value is too small."""
    if value < least:
        raise InputError(f"{field}: expected {least} or more, got {value}")


def parse_box(text: str) -> tuple[float, float, float, float]:
    """Parses a box as the command line gives it."""
    try:
        x_1, y_1, x_2, y_2 = (float(edge) for edge in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected x_1,y_1,x_2,y_2 in pixels") from None
    return x_1, y_1, x_2, y_2
