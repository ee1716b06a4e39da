"""Protocols, evaluators of retrieval and of what is recognized, metrics and reports."""

from grnet_jax.evaluation.evaluators import EvaluationResult, Evaluator, build_evaluators

__all__ = ["EvaluationResult", "Evaluator", "build_evaluators"]
