"""From a matcher and photos to ranks, figures per protocol, and tables."""
