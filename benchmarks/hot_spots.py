"""Hot spots that were found and removed: the time before and after, in one run.

    python -m benchmarks.hot_spots

"Before" is the plain way of writing the same computation, kept here alone; both give the same
numbers, which is checked first. Forward and backward, at the small size where nothing else is
named.
Writes benchmarks/results/hot_spots_DEVICE.json.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.results_file import ResultsFile, in_new_process, make_parser, markdown_table
from benchmarks.training_step import SIZES, best_time, step_seconds
from grnet_jax.backbones.blocks import convolution
from grnet_jax.backbones.grouped import grouped_convolution
from grnet_jax.backbones.pooling import max_pool
from grnet_jax.graph import PAPER_SCALES, node_count
from grnet_jax.graph import reasoning as graph
from grnet_jax.graph.pyramid import region_counts

_ITEMS, _CHANNELS, _NODE_DIM, _REASONING_DIM = 32, 128, 64, 32
_LARGE_PAGES = "glibc.malloc.hugetlb=1"


def main() -> None:
    """Measures what is missing and prints the table."""
    make_parser(__doc__).parse_args()
    name = f"hot_spots_{jax.default_backend()}"
    results = ResultsFile(name, "python -m benchmarks.hot_spots", ("hot_spot",))
    for hot_spot, measure in _HOT_SPOTS.items():
        if results.find(hot_spot=hot_spot) is not None:
            continue
        before, after = measure()
        row = {"hot_spot": hot_spot, "before_seconds": before, "after_seconds": after}
        row |= {"times_faster": before / after}
        results.add({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
        print(format_rows(results.rows[-1:]).splitlines()[-1], flush=True)
    results.report(format_rows(results.rows))


def format_rows(rows: list[dict[str, Any]]) -> str:
    """A Markdown table in milliseconds."""
    lines = []
    for row in rows:
        times = [f"{1000 * row[f'{when}_seconds']:.0f}" for when in ("before", "after")]
        lines.append([row["hot_spot"], *times, f"{row['times_faster']:.1f}"])
    return markdown_table(("hot spot", "before, ms", "after, ms", "times faster"), lines)


def _times(
    before: Callable[..., jax.Array], after: Callable[..., jax.Array], *arguments: Any
) -> tuple[float, float]:
    """Seconds of both with their gradients, after checking that they agree."""
    values = [jax.jit(f)(*arguments) for f in (before, after)]
    scale = float(jnp.max(jnp.abs(values[1])))
    np.testing.assert_allclose(values[0], values[1], rtol=1e-4, atol=1e-5 * scale)
    weight = jax.random.normal(jax.random.key(9), values[0].shape)

    def seconds(f: Callable[..., jax.Array]) -> float:
        def loss(*arguments: Any) -> jax.Array:
            return jnp.sum(f(*arguments) * weight)

        gradient = jax.jit(jax.grad(loss, argnums=tuple(range(len(arguments)))))
        return best_time(lambda: jax.block_until_ready(gradient(*arguments)))

    return seconds(before), seconds(after)


def _differences() -> tuple[float, float]:
    """|x - y|^2 of all region pairs: gathered by index, or broadcast scale by scale."""
    rng = np.random.default_rng(0)
    shape = (_ITEMS, sum(region_counts(PAPER_SCALES)), _CHANNELS)
    query, gallery = (rng.gamma(1.0, 1.0, shape).astype(np.float32) for _ in range(2))
    left, right, start = [], [], 0
    for count in region_counts(PAPER_SCALES):
        grid = np.arange(start, start + count)
        left.append(np.repeat(grid, count))
        right.append(np.tile(grid, count))
        start += count
    ii, jj = np.concatenate(left), np.concatenate(right)

    def gathered(query: jax.Array, gallery: jax.Array) -> jax.Array:
        pairs = query[:, None, ii] - gallery[None, :, jj]  # [q, g, n, c]
        return jnp.square(pairs).reshape(-1, len(ii), _CHANNELS)

    def broadcast(query: jax.Array, gallery: jax.Array) -> jax.Array:
        return graph.region_differences(query, gallery, PAPER_SCALES)

    return _times(gathered, broadcast, jnp.asarray(query), jnp.asarray(gallery))


def _nodes_of_pairs() -> jax.Array:
    nodes = jax.random.normal(jax.random.key(0), (_ITEMS**2, node_count(PAPER_SCALES), _NODE_DIM))
    return nodes / jnp.linalg.norm(nodes, axis=-1, keepdims=True)


def _he(number: int, rows: int, columns: int) -> jax.Array:
    return jax.random.normal(jax.random.key(number), (rows, columns)) * np.sqrt(2 / rows)


def _reasoning() -> tuple[float, float]:
    """Eq. 5 to 7 as written, every node's row in every layer; or what the score needs."""
    widths = (_NODE_DIM, _REASONING_DIM, _REASONING_DIM, _REASONING_DIM)
    layers = [_he(i, *widths[i : i + 2]) for i in range(3)]
    out, into = _he(3, _NODE_DIM, _NODE_DIM), _he(4, _NODE_DIM, _NODE_DIM)

    def as_written(nodes: jax.Array, out: jax.Array, into: jax.Array) -> jax.Array:
        sources = jnp.einsum("ed,bnd->bne", out, nodes)
        targets = jnp.einsum("ed,bnd->bne", into, nodes)
        weights = jax.nn.softmax(jnp.einsum("bme,bne->bmn", sources, targets), axis=-1)
        hidden = nodes
        for layer in layers:
            hidden = jax.nn.relu(jnp.einsum("bmn,bnd->bmd", weights, hidden) @ layer)
        return hidden[:, 0]

    def arranged(nodes: jax.Array, out: jax.Array, into: jax.Array) -> jax.Array:
        return graph.reason(nodes, [out], [into], layers)

    return _times(as_written, arranged, _nodes_of_pairs(), out, into)


def _pair_axes() -> tuple[float, float]:
    """One propagation with queries and gallery as two axes, or as one axis of pairs."""
    nodes, layer = _nodes_of_pairs(), _he(0, _NODE_DIM, _REASONING_DIM)
    weights = jax.nn.softmax(jnp.einsum("bmd,bnd->bmn", nodes, nodes), axis=-1)

    def two_axes(nodes: jax.Array, weights: jax.Array) -> jax.Array:
        nodes = nodes.reshape(_ITEMS, _ITEMS, *nodes.shape[1:])
        weights = weights.reshape(_ITEMS, _ITEMS, *weights.shape[1:])
        hidden = jnp.einsum("qgmn,qgnd,dk->qgmk", weights, nodes, layer)
        return jax.nn.relu(hidden).reshape(_ITEMS**2, -1, _REASONING_DIM)

    def one_axis(nodes: jax.Array, weights: jax.Array) -> jax.Array:
        return graph.propagate(weights, nodes, layer)

    return _times(two_axes, one_axis, nodes, weights)


def _lax_convolution(x: jax.Array, kernel: jax.Array, pad: int, groups: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(pad, pad)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _pointwise() -> tuple[float, float]:
    """A 1x1 convolution of ResNet-50's layer3, 8 photos."""
    x = jax.random.normal(jax.random.key(0), (8, 14, 14, 256))
    module = convolution(1024)
    return _times(
        lambda x, kernel: _lax_convolution(x, kernel, 0),
        lambda x, kernel: cast(jax.Array, module.apply({"params": {"kernel": kernel}}, x)),
        x,
        _he(1, 256, 1024).reshape(1, 1, 256, 1024),
    )


def _grouped() -> tuple[float, float]:
    """A 3x3 convolution in 32 groups of SE-ResNeXt-50's layer3, 8 photos."""
    x = jax.random.normal(jax.random.key(0), (8, 14, 14, 512))
    kernel = _he(1, 9 * 16, 512).reshape(3, 3, 16, 512)
    return _times(
        lambda x, kernel: _lax_convolution(x, kernel, 1, 32),
        lambda x, kernel: grouped_convolution(x, kernel, 1, 32),
        x,
        kernel,
    )


def _pooling() -> tuple[float, float]:
    """2x2 max-pooling after the first stage of the small FashionNet, 64 photos."""
    x = jax.random.normal(jax.random.key(0), (64, 64, 64, 16))
    return _times(
        lambda x: cast(jax.Array, nn.max_pool(x, (2, 2), strides=(2, 2))),
        lambda x: max_pool(x, 2, 2, ceil=False),
        x,
    )


def _large_pages() -> tuple[float, float]:
    """The small size's whole training step without and with large memory pages."""
    times = []
    for tunables in ("", _LARGE_PAGES):
        os.environ["GLIBC_TUNABLES"] = tunables  # a process reads it when it starts
        times.append(in_new_process(step_seconds, size=SIZES["small"]))
    return times[0], times[1]


_HOT_SPOTS: Mapping[str, Callable[[], tuple[float, float]]] = {
    "gradient of gathered region pairs → broadcast scale by scale": _differences,
    "reasoning as written → fused transforms, W before w_p, the last layer's global row": (
        _reasoning
    ),
    "one layer with [query, gallery] axes → one axis of pairs": _pair_axes,
    "gradients of a 1x1 convolution → of a matrix product (ResNet layer3)": _pointwise,
    "gradients of a 3x3 convolution in 32 groups → block-diagonal ones (SE-ResNeXt layer3)": (
        _grouped
    ),
    "gradient of 2x2 max-pooling by search and scatter → by comparison (FashionNet)": _pooling,
    "page faults of the step's temporaries → large pages (GLIBC_TUNABLES)": _large_pages,
}


if __name__ == "__main__":
    main()
