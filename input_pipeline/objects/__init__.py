"""Images with many objects, for detectors: boxes, categories, masks and crowds."""
