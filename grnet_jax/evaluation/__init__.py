"""Protocols, evaluators of retrieval and of what is recognized, metrics and reports."""
