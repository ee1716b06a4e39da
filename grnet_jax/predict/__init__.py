"""What photos show, by a trained run: a command."""
