"""Serves a catalog over HTTP, with a page to search it by photo; `pip install grnet_jax[search]`."""
