"""The losses in loops and float64."""

import numpy as np


def triplets(distances, positive, negative, margin, miner):
    """Returns the arguments of the hinges of the triplets that count, one list per anchor."""
    found = []
    for d, p, n in zip(distances, positive, negative, strict=True):
        pairs = [(d[i], d[j]) for i in np.flatnonzero(p) for j in np.flatnonzero(n)]
        if miner == "hardest" and pairs:
            pairs = [(max(near for near, _ in pairs), min(far for _, far in pairs))]
        if miner == "semi_hard":
            pairs = [(near, far) for near, far in pairs if near < far < near + margin]
        found.append([margin + near - far for near, far in pairs])
    return found


def triplet_loss(anchors, candidates, positive, negative, margin, distance, miner, reduction):
    """(loss, triplets, active share, anchors, anchors without)."""
    difference = anchors[:, None] - candidates[None]
    distances = (difference.astype(np.float64) ** 2).sum(axis=2)
    if distance == "l2":
        distances = np.sqrt(distances)
    gaps = triplets(distances, positive, negative, margin, miner)
    hinges = np.array([max(gap, 0) for row in gaps for gap in row])
    active = (hinges > 0).sum()
    over = len(hinges) if reduction == "mean" else active
    loss = hinges.sum() / over if over else 0.0
    rows = [i for i in range(len(anchors)) if positive[i].any() or negative[i].any()]
    without = sum(not gaps[i] for i in rows)
    share = active / len(hinges) if len(hinges) else 0.0
    return loss / 2 if distance == "squared_l2" else loss, len(hinges), share, len(rows), without


def histogram_ap(scores, positive, negative, bins):
    """Revaud et al.'s quantized AP of one query."""
    step = 2 / (bins - 1)
    right = wrong = ap = 0.0
    for m in range(bins):
        weight = np.maximum(0, 1 - np.abs(scores.astype(np.float64) - (1 - m * step)) / step)
        found = weight[positive].sum()
        right, wrong = right + found, wrong + weight[negative].sum()
        if right:
            ap += right / (right + wrong) * found / positive.sum()
    return ap


def gradient(function, x, step=1e-6):
    """Central differences of a function of float64 x."""
    found = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[place] = step
        found[place] = (function(x + moved) - function(x - moved)) / (2 * step)
    return found
