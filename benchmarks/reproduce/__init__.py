"""The tables of published papers, trained and evaluated by one command a table."""
