"""A trained or converted detector in use, from Python and as a command."""
