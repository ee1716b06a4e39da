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


def unit(z):
    """z / ||z||_2, or z where it is zero."""
    length = np.sqrt(np.sum(z**2))
    return z / length if length > 0 else z


def similarities(query, gallery, params, graph):
    """Eq. 4 for one pair of images, or the graph's variant of it; P is transposed, [c, d]."""
    found = []
    for number, (_, i, j) in enumerate(node_list(used_scales(graph))):
        z = np.abs(query[i] - gallery[j]) ** 2 @ params["projection"]
        node = z * graph.raw_scale * len(query[i]) if graph.raw_scale else unit(z)
        found.append(node + params["positions"][number] if graph.node_positions else node)
    return np.array(found)


def used_scales(graph):
    """All, or the whole image's alone where nothing is reasoned."""
    return graph.scales if graph.layers else graph.scales[:1]


def connected(a, b, nodes, intra_scale, inter_scale):
    """Whether there is an edge between the nodes of those numbers."""
    if a == b or a == 0 or b == 0:
        return True
    return intra_scale if nodes[a][0] == nodes[b][0] else inter_scale


def edges(h, params, number, graph):
    """Eq. 5: softmax over b of (T_out s_a) . (T_in s_b), with the transforms of that layer."""
    n, nodes = len(h), node_list(used_scales(graph))
    transform_out = params.get(f"edge_scale{number}", 1.0) * params[f"edge_out{number}"]
    if graph.raw_scale:
        h = np.array([unit(node) for node in h])
    incoming = [params[f"edge_in{number}"] @ node for node in h]
    weights = np.zeros((n, n))
    for a in range(n):
        outgoing = transform_out @ h[a]
        for b in range(n):
            if connected(a, b, nodes, graph.intra_scale, graph.inter_scale):
                weights[a, b] = np.exp(outgoing @ incoming[b])
    return weights / weights.sum(axis=1, keepdims=True)


def reason(query, gallery, params, graph):
    """Eq. 4 to 8 for one pair: the nodes after the last layer, and every layer's edges."""
    h, every = similarities(query, gallery, params, graph), []
    for number in range(1, graph.layers + 1):
        anew = number == 1 or graph.recompute_edges
        every.append(edges(h, params, number, graph) if anew else every[0])
        h = np.maximum((every[-1] @ h) @ params[f"layer{number}"], 0)
    return h, every


def _float64(params):
    return {name: np.asarray(value, np.float64) for name, value in params.items()}


def logits(graph, params, query, gallery):
    """Scores before the sigmoid [q, g] of a `SimilarityGraph` with these parameters."""
    params, found = _float64(params), np.zeros((len(query), len(gallery)))
    for i, j in np.ndindex(found.shape):
        x, y = query[i].astype(np.float64), gallery[j].astype(np.float64)
        h, _ = reason(x, y, params, graph)
        found[i, j] = h[0] @ params["score_weight"] + params["score_bias"]
    return found


def global_edges(query, gallery, params, graph):
    """Weights into the global node of one pair, before the first layer and after all of them."""
    _, every = reason(query, gallery, _float64(params), graph)
    after = every[-1] if graph.recompute_edges else np.linalg.matrix_power(every[0], graph.layers)
    return every[0][0], after[0]
