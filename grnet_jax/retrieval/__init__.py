"""From a matcher and photos to ranks, figures per protocol, tables and pages."""
