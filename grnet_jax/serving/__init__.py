"""Serves a catalog over HTTP, with a page; needs `pip install grnet_jax[search]`."""
