"""Mask R-CNN beside torchvision's: inference, a gradient, RoIAlign and suppression alone.

    python -m benchmarks.detection_speed [--sizes=small,photos] [--dtype=bfloat16]

Both are ResNet-50 on a feature pyramid with the same random weights and photos that fill the
canvas; before anything is timed the scores of what they find are compared. torchvision runs
eagerly. A gradient is that of the sum of the losses by every parameter, BatchNorm's statistics
held. torchvision trains the masks of as many proposals as are objects, ours of 128 places, filled
or not, or of `model.sampled_masks`: here each photo has three objects. RoIAlign is that of 512
boxes with 7x7 bins and of 128 with 14x14, each with its gradient; suppression is of five levels
with 1,000 boxes each. Where torchvision lacks its compiled operators (`operators` in the file),
those two are stand-ins, of which the times are no torchvision's: `torch_stand_ins` is what
inference takes in them. Needs PyTorch and torchvision (`make parity`). Writes
benchmarks/results/detection_speed_DEVICE.json, with the machine's load at that time.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.results_file import ResultsFile, make_parser, markdown_table
from benchmarks.torch_detectors import has_operators, make_detector
from benchmarks.torch_model import best_torch_time, torch_device
from benchmarks.training_step import best_time
from configs import detector as detector_config
from grnet_jax.config import parse_config
from grnet_jax.detect.convert import convert_detector
from grnet_jax.detection.nms import keep_best
from grnet_jax.detection.roi_align import roi_align
from grnet_jax.models import build_matcher

_CLASSES, _CHANNELS, _STRIDES = 13, 256, (4, 8, 16, 32)
_ROIS = {7: 512, 14: 128}  # boxes by their bins, as in training on a photo
_LEVELS, _BOXES, _IOU = 5, 1000, 0.7
_FEW_MASKS = 16
_TIMES = {
    "inference": "inference",
    "gradient": "gradient",
    "gradient_few_masks": f"gradient, {_FEW_MASKS} masks",
    "roi_align_7": "RoIAlign, 512 boxes of 7x7",
    "roi_align_14": "RoIAlign, 128 boxes of 14x14",
    "nms": "suppression",
}


class Size(NamedTuple):
    """Sides of the square photos in pixels, how many at once, and proposals of each."""

    side: int
    photos: int
    proposals: int


_SIZES = {"small": Size(320, 1, 300), "photos": Size(800, 4, 1000)}


def main() -> None:
    """Measures the sizes that are missing and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", default="small", help="of small, photos (%(default)s)")
    parser.add_argument("--dtype", default="float32", help="of both (%(default)s)")
    options = parser.parse_args()
    name = f"detection_speed_{jax.default_backend()}"
    results = ResultsFile(name, "python -m benchmarks.detection_speed", ("size", "dtype"))
    for size in options.sizes.split(","):
        if results.find(size=size, dtype=options.dtype) is None:
            row = {"size": size, "dtype": options.dtype, "load": os.getloadavg()[0]}
            results.add(row | measure(_SIZES[size], options.dtype))
    results.report(format_rows(results.rows))


def measure(size: Size, dtype: str) -> dict[str, Any]:
    """Times both detectors and their parts; AssertionError where they do not find the same."""
    names = (f"rpn_{p}_nms_top_n_{s}" for p in ("pre", "post") for s in ("train", "test"))
    limits = dict.fromkeys(names, size.proposals)
    sides = {"min_size": size.side, "max_size": size.side, "num_classes": _CLASSES + 1}
    peer = make_detector("maskrcnn_resnet50_fpn", **sides, **limits)
    model, variables = convert_detector(
        {key: value.numpy() for key, value in peer.state_dict().items()}
    )
    config = detector_config.get_config("coco")
    of_both = 2 * (size.proposals,)
    config.model.update(
        {**model, "dtype": dtype, "canvas": 2 * (size.side,), "before_nms": of_both}
    )
    config.model.update({"after_nms": of_both})
    ours = _Ours(build_matcher(parse_config(config).model), variables, size)
    config.model.sampled_masks = _FEW_MASKS
    fewer = _Ours(build_matcher(parse_config(config).model), variables, size)
    theirs = _Theirs(peer.to(torch_device()), ours.batch, dtype)
    if dtype == "float32":
        best = float(ours.detect().score[0, 0]), float(theirs.detect()[0]["scores"][0])
        np.testing.assert_allclose(*best, atol=1e-3)
    times = {
        "inference": best_time(lambda: jax.block_until_ready(ours.detect())),
        "torch_inference": best_torch_time(theirs.detect),
        "gradient": best_time(lambda: jax.block_until_ready(ours.gradient())),
        "gradient_few_masks": best_time(lambda: jax.block_until_ready(fewer.gradient())),
    }
    times |= dict.fromkeys(
        ("torch_gradient", "torch_gradient_few_masks"), best_torch_time(theirs.gradient)
    )
    if not has_operators():
        times["torch_stand_ins"] = theirs.time_stand_ins()
    times |= _time_roi_align(size.side) | _time_nms(size.side)
    rounded = {name: round(value, 5) for name, value in times.items()}
    return {"photos": size.photos, "operators": has_operators(), **rounded}


class _Ours:
    """A detector, its batch, and what is timed."""

    def __init__(self, detector: Any, variables: Mapping[str, Any], size: Size):
        self.batch = _random_batch(size)
        self._variables = jax.device_put(variables)
        self._placed = jax.device_put(self.batch)
        self._detect = jax.jit(detector.apply)

        def loss(params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
            given = {**self._variables, "params": params}
            key = jax.random.key(0)
            values = detector.apply(given, batch, key, False, method="losses")
            return sum(values.values())

        self._gradient = jax.jit(jax.grad(loss))

    def detect(self) -> Any:
        return self._detect(self._variables, self._placed["image"], self._placed["size"])

    def gradient(self) -> Any:
        return self._gradient(self._variables["params"], self._placed)


class _Theirs:
    """torchvision's detector on the same batch."""

    def __init__(self, peer: Any, batch: Mapping[str, np.ndarray], dtype: str):
        self._peer = peer
        self._device = torch_device()
        self._low = dtype == "bfloat16"
        pixels = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2).float() / 255
        self._images = list(pixels.to(self._device))
        self._targets = [
            {name: torch.from_numpy(values).to(self._device) for name, values in one.items()}
            for one in map(_target, batch["box"], batch["category"], batch["image"])
        ]

    def _compute(self, *given: Any) -> Any:
        with torch.autocast(self._device, torch.bfloat16, enabled=self._low):
            return self._peer(*given)

    def detect(self) -> Any:
        self._peer.eval()
        with torch.no_grad():
            return self._compute(self._images)

    def gradient(self) -> None:
        self._peer.train()
        for layer in self._peer.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.eval()
        self._peer.zero_grad(set_to_none=True)
        sum(self._compute(self._images, self._targets).values()).backward()

    def time_stand_ins(self) -> float:
        """Returns the seconds that inference takes in the two stand-ins."""
        spent = [0.0]

        def timed(run: Callable[..., Any]) -> Callable[..., Any]:
            def timed_run(*given: Any) -> Any:
                started = time.perf_counter()
                result = run(*given)
                spent[0] += time.perf_counter() - started
                return result

            return timed_run

        modules = (("torchvision.ops.roi_align", "_roi_align"), ("torchvision.ops.boxes", "nms"))
        kept = [(sys.modules[module], name) for module, name in modules]
        originals = [getattr(*one) for one in kept]
        for (module, name), original in zip(kept, originals, strict=True):
            setattr(module, name, timed(original))
        self.detect()
        for (module, name), original in zip(kept, originals, strict=True):
            setattr(module, name, original)
        return spent[0]


def _random_batch(size: Size) -> dict[str, np.ndarray]:
    """Returns photos of colored patches, with three objects each."""
    rng = np.random.default_rng(0)
    cells = size.side // 20
    coarse = rng.integers(0, 256, (size.photos, cells, cells, 3), np.uint8)
    low = rng.uniform(0, 0.4, (size.photos, 3, 2)) * size.side
    box = np.concatenate([low, low + rng.uniform(0.2, 0.6, low.shape) * size.side], axis=2)
    there = np.ones((size.photos, 3), bool)
    return {
        "image": np.repeat(np.repeat(coarse, 20, axis=1), 20, axis=2),
        "size": np.full((size.photos, 2), size.side, np.int32),
        "box": box.astype(np.float32),
        "category": rng.integers(0, _CLASSES, there.shape).astype(np.int32),
        "valid": there,
        "ignore": ~there,
        "has_mask": there,
        "mask": np.full((size.photos, 3, 112, 112), 255, np.uint8),
    }


def _target(box: np.ndarray, category: np.ndarray, image: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the objects of a photo as torchvision takes them; masks fill their boxes."""
    masks = np.zeros((len(box), *image.shape[:2]), np.uint8)
    for mask, (x_1, y_1, x_2, y_2) in zip(masks, box.astype(int), strict=True):
        mask[y_1:y_2, x_1:x_2] = 1
    return {"boxes": box, "labels": category.astype(np.int64) + 1, "masks": masks}


def _time_roi_align(side: int) -> dict[str, float]:
    from torchvision.ops import MultiScaleRoIAlign

    rng, times = np.random.default_rng(1), {}
    maps = {
        stride: rng.normal(size=2 * (-(-side // stride),) + (_CHANNELS,)).astype(np.float32)
        for stride in _STRIDES
    }
    given = {
        str(stride): torch.from_numpy(one).permute(2, 0, 1)[None].to(torch_device())
        for stride, one in maps.items()
    }
    placed = jax.device_put(maps)
    for bins, count in _ROIS.items():
        boxes = _random_boxes(rng, count, side)
        peer = MultiScaleRoIAlign(list(given), bins, 2)
        boxes_given = [torch.from_numpy(boxes).to(torch_device())]

        def gradient(maps: Any, boxes: Any, bins: int = bins) -> jax.Array:
            return jax.grad(lambda maps: jnp.sum(roi_align(maps, boxes, bins) ** 2))(maps)

        def torch_gradient(peer: Any = peer, boxes: Any = boxes_given) -> None:
            leaves = {name: one.detach().requires_grad_() for name, one in given.items()}
            cells = peer(leaves, boxes, [(side, side)])
            torch.autograd.grad(cells.square().sum(), list(leaves.values()), allow_unused=True)

        compiled = jax.jit(gradient)

        def once(run: Any = compiled, boxes: Any = boxes) -> None:
            jax.block_until_ready(run(placed, boxes))

        name = f"roi_align_{bins}"
        times[name] = best_time(once)
        times[f"torch_{name}"] = best_torch_time(torch_gradient)
    return times


def _time_nms(side: int) -> dict[str, float]:
    from torchvision.ops import nms

    rng = np.random.default_rng(2)
    boxes = np.stack([_random_boxes(rng, _BOXES, side) for _ in range(_LEVELS)])
    scores = rng.random((_LEVELS, _BOXES), np.float32)

    @jax.jit
    @jax.vmap
    def keep(boxes: jax.Array, scores: jax.Array) -> jax.Array:
        order = jnp.argsort(-scores)
        return keep_best(boxes[order], jnp.ones(_BOXES, bool), _IOU)

    levels = [
        tuple(torch.from_numpy(part).to(torch_device()) for part in level)
        for level in zip(boxes, scores, strict=True)
    ]

    def torch_keep() -> None:
        for level in levels:
            nms(*level, _IOU)

    return {
        "nms": best_time(lambda: jax.block_until_ready(keep(boxes, scores))),
        "torch_nms": best_torch_time(torch_keep),
    }


def _random_boxes(rng: np.random.Generator, count: int, side: int) -> np.ndarray:
    low = rng.uniform(0, 0.7, (count, 2)) * side
    high = np.minimum(low + rng.uniform(0.05, 0.6, low.shape) * side, side)
    return np.concatenate([low, high], axis=1).astype(np.float32)


def format_rows(rows: list[dict[str, Any]]) -> str:
    """Returns a Markdown table: seconds of ours and theirs, and their ratio."""
    lines = []
    for row in rows:
        where = f"{row['photos']} of {_SIZES[row['size']].side} pixels, {row['dtype']}"
        for name, what in _TIMES.items():
            ours, theirs = row[name], row[f"torch_{name}"]
            lines.append([where, what, f"{ours:.3g}", f"{theirs:.3g}", f"{ours / theirs:.2f}"])
    return markdown_table(("photos", "what", "ours, s", "torchvision, s", "ratio"), lines)


if __name__ == "__main__":
    main()
