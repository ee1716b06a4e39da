"""A shop's photos, indexed once and searched by photo."""
