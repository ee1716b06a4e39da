"""The comparison matchers' scores of one pair written out in float64, as their modules say."""

import numpy as np


def cosine(x, y):
    return x @ y / (np.linalg.norm(x) * np.linalg.norm(y))


def warped(query, gallery, scale):
    """The gallery image's cells warped onto the query's."""
    cells = []
    for x in query:
        weights = np.array([np.exp(scale * cosine(x, y)) for y in gallery])
        cells.append(sum(w * y for w, y in zip(weights / weights.sum(), gallery, strict=True)))
    return np.array(cells)


def kpm_logit(query, gallery, params, counts, *, match_scale, attention, square_first):
    """Kronecker-product matching; counts are the cells of each scale."""
    params = {name: np.asarray(value, np.float64) for name, value in params.items()}
    differences, start = [], 0
    for count in counts:
        x, y = query[start : start + count], gallery[start : start + count]
        share = np.ones(count)
        if attention:
            residual = x - warped(x, x, match_scale)
            logit = residual**2 @ params["attention_weight"][:, 0] + params["attention_bias"]
            share = 1 / (1 + np.exp(-logit))
        d = x - warped(x, y, match_scale)
        weighted = [a * (row**2 if square_first else row) for a, row in zip(share, d, strict=True)]
        mean = np.sum(weighted, axis=0) / count
        differences.append(mean if square_first else mean**2)
        start += count
    return np.concatenate(differences) @ params["score_weight"][:, 0] + params["score_bias"]


def local_similarity(query, gallery, counts, one_to_one):
    """The average similarity of greedily matched regions, over regions and then scales."""
    averages, start = [], 0
    for count in counts:
        pairs = [
            (cosine(query[start + i], gallery[start + j]), i, j)
            for i in range(count)
            for j in range(count)
        ]
        if one_to_one:
            taken, rows, columns = [], set(), set()
            for value, i, j in sorted(pairs, key=lambda p: -p[0]):
                if i not in rows and j not in columns:
                    taken.append(value)
                    rows.add(i)
                    columns.add(j)
        else:
            taken = [max(value for value, i, _ in pairs if i == row) for row in range(count)]
        averages.append(np.mean(taken))
        start += count
    return np.mean(averages)
