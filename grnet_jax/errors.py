"""The one base of errors that a user can mend."""


class InputError(ValueError):
    """Something given from outside is wrong: a config field, a file, a folder.

    The message says what was given, what was expected and what to do; commands print it
    without a traceback.
    """
