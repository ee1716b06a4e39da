"""DARN (Huang et al., ICCV 2015), a baseline of DeepFashion: a stream for each kind of photo.

    python train.py --config=configs/darn.py

A network for customer photos and one for shop photos, without shared weights, which learn
attributes and categories beside triplets of a customer photo and shop photos. Data, backbone,
optimiser and steps are FashionNet's on the same data set. grnet_jax/models/darn.py says what is our
reading of the paper.
"""

import ml_collections

from configs import fashionnet


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """DARN on that data set."""
    config = fashionnet.get_config(dataset)
    config.name = f"darn_{config.data.name}"
    whole = config.model
    config.model = ml_collections.ConfigDict({"name": "darn"})
    # FashionNet's fields; model.hidden is the width of both dense layers of a stream.
    for field in ("dtype", "backbone", "categories", "attributes", "hidden", "dropout"):
        config.model[field] = whole[field]
    triplets = config.loss.recognition.triplets
    # One phase, without landmarks.
    config.loss.rounds, config.loss.phases = 1, ("all",)
    del config.loss["pose"], config.loss["recognition"]
    config.loss.all = ml_collections.ConfigDict(
        {
            "share": 1.0,
            "landmarks": 0.0,
            "visibility": 0.0,
            "category": 1.0,
            "attributes": 10.0,
            "triplets": triplets,
        }
    )
    return config
