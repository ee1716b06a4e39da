"""A trained matcher as files that need JAX alone: written here, read by `load_exported`."""
