"""Tests of grnet_jax/detection."""
