"""Pretrained weights: reading PyTorch's checkpoints, converting them, and the files they become."""
