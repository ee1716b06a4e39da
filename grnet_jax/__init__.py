"""Fashion image retrieval in JAX: from a street photo to the same garment in a shop's catalogue.

    matcher = grnet_jax.load("runs/grnet_synthetic")
    query = matcher.embed(["street.jpg"])
    gallery = matcher.embed(["shop_1.jpg", "shop_2.jpg"])
    found = matcher.search(query, gallery, top_k=2)  # found.indices [1, 2], found.scores
    scores = matcher.score(query, gallery)  # [1, 2], higher is more alike
    catalog = grnet_jax.open_catalog("my_shop")  # made by python -m grnet_jax.search index
    matches = catalog.search(["street.jpg"], filters={"category": ["dress"]})[0]

    detector = grnet_jax.load_detector("runs/detector_modanet")
    (found,) = detector.detect(["street.jpg"])  # found.box, found.category, found.score

Importing this, and all of the above, needs no TensorFlow. The names stand in `__init__.pyi`; each
is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, _ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
