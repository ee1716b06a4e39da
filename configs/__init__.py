"""Configs, one file a system: `get_config(dataset)` returns every field with its unit."""
