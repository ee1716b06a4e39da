"""GRNet's equations 4 to 8 written out one by one in float64, as the paper has them."""

import numpy as np


def regions(feature_map, scales):
    """Max over each window with bounds floor(i H / n), ceil((i + 1) H / n)."""
    height, width, _ = feature_map.shape
    found = []
    for rows, columns in scales:
        for i in range(rows):
            for j in range(columns):
                top, bottom = np.floor(i * height / rows), np.ceil((i + 1) * height / rows)
                left, right = np.floor(j * width / columns), np.ceil((j + 1) * width / columns)
                window = feature_map[int(top) : int(bottom), int(left) : int(right)]
                found.append(window.reshape(-1, window.shape[-1]).max(axis=0))
    return np.array(found)


def node_list(scales):
    """(scale, query region, gallery region) of each node, regions counted over all scales."""
    nodes, start = [], 0
    for number, (rows, columns) in enumerate(scales):
        for i in range(rows * columns):
            for j in range(rows * columns):
                nodes.append((number, start + i, start + j))
        start += rows * columns
    return nodes


def similarities(query, gallery, projection, scales, norm_feature=False):
    """Eq. 4 for one pair of images; projection is P transposed, [c, d]."""
    found = []
    for _, i, j in node_list(scales):
        z = np.abs(query[i] - gallery[j]) ** 2 @ projection
        length = np.sqrt(np.sum(z**2))
        unit = z / length if length > 0 else z
        found.append(np.append(unit, np.log1p(length)) if norm_feature else unit)
    return np.array(found)


def connected(a, b, nodes, intra_scale, inter_scale):
    """Whether there is an edge between the nodes of those numbers."""
    if a == b or a == 0 or b == 0:
        return True
    return intra_scale if nodes[a][0] == nodes[b][0] else inter_scale


def edges(h, transform_out, transform_in, nodes, intra_scale, inter_scale):
    """Eq. 5: softmax over b of (T_out s_a) . (T_in s_b)."""
    n = len(h)
    weights = np.zeros((n, n))
    for a in range(n):
        for b in range(n):
            if connected(a, b, nodes, intra_scale, inter_scale):
                weights[a, b] = np.exp((transform_out @ h[a]) @ (transform_in @ h[b]))
    return weights / weights.sum(axis=1, keepdims=True)


def logit(
    query,
    gallery,
    params,
    scales,
    *,
    layers,
    intra_scale,
    inter_scale,
    recompute,
    norm_feature,
):
    """The score of one pair before the sigmoid, Eq. 4 to 8."""
    params = {name: np.asarray(value, np.float64) for name, value in params.items()}
    nodes = node_list(scales)
    h = similarities(query, gallery, params["projection"], scales, norm_feature)
    w_p = None
    for number in range(1, layers + 1):
        if w_p is None or recompute:
            w_p = edges(
                h,
                params.get(f"edge_scale{number}", 1.0) * params[f"edge_out{number}"],
                params[f"edge_in{number}"],
                nodes,
                intra_scale,
                inter_scale,
            )
        h = np.maximum((w_p @ h) @ params[f"layer{number}"], 0)
    return h[0] @ params["score_weight"] + params["score_bias"]


def logits(graph, params, query, gallery):
    """Of all pairs [q, g] of a `SimilarityGraph` with these parameters."""
    return np.array(
        [
            [
                logit(
                    x.astype(np.float64),
                    y.astype(np.float64),
                    params,
                    graph.scales if graph.layers else graph.scales[:1],
                    layers=graph.layers,
                    intra_scale=graph.intra_scale,
                    inter_scale=graph.inter_scale,
                    recompute=graph.recompute_edges,
                    norm_feature=graph.norm_feature,
                )
                for y in gallery
            ]
            for x in query
        ]
    )


def global_edges(
    query, gallery, params, scales, *, layers, intra_scale, inter_scale, recompute, norm_feature
):
    """Weights into the global node of one pair, before the first layer and after all of them."""
    params = {name: np.asarray(value, np.float64) for name, value in params.items()}
    nodes = node_list(scales)
    h = similarities(query, gallery, params["projection"], scales, norm_feature)
    every = []
    for number in range(1, layers + 1):
        if number == 1 or recompute:
            out = params.get(f"edge_scale{number}", 1.0) * params[f"edge_out{number}"]
            own = edges(h, out, params[f"edge_in{number}"], nodes, intra_scale, inter_scale)
        every.append(own)
        h = np.maximum((own @ h) @ params[f"layer{number}"], 0)
    after = every[-1] if recompute else np.linalg.matrix_power(every[0], layers)
    return every[0][0], after[0]
