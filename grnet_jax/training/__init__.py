"""State, step, loop and checkpoints: training of any matcher."""
