"""Trains a matcher: python train.py --config=configs/grnet.py [--workdir=DIR]."""

from grnet_jax.commands import train_main

if __name__ == "__main__":
    train_main()
