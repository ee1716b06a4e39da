"""torchvision's detectors with random weights, runnable without torchvision's compiled operators.

Import only where torch and torchvision are installed.
"""

import sys
from typing import Any

import numpy as np
import torch

from benchmarks.torch_peers import torchvision_models


def make_detector(name: str, seed: int = 0, **options: Any) -> Any:
    """Returns `torchvision.models.detection.NAME` in evaluation mode, with random weights.

    BatchNorm's parameters and statistics are random, and the predictors' weights large: else all
    scores would tie, and suppression would flip by rounding.

    Args:
      name: of the function, as "maskrcnn_resnet50_fpn".
      seed: of the weights.
      **options: of the function.
    """
    torchvision_models()
    from torchvision.models import detection

    _stand_in()
    torch.manual_seed(seed)
    detector = getattr(detection, name)(weights=None, weights_backbone=None, **options)
    with torch.no_grad():
        for layer in detector.modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear) and layer.bias is not None:
                layer.bias.normal_(0, 0.1)
            if hasattr(layer, "running_var"):
                layer.weight.uniform_(0.5, 1.0)
                layer.bias.normal_(0, 0.2)
                layer.running_mean.normal_(0, 0.2)
                layer.running_var.uniform_(0.5, 1.5)
        # Sums of residual blocks would grow from block to block.
        for key, parameter in detector.named_parameters():
            if key.endswith("bn3.weight"):
                parameter.mul_(0.2)
            if "cls_logits.weight" in key or "bbox_pred.weight" in key or "cls_score.weight" in key:
                parameter.mul_(5)
    return detector.eval()


def has_operators() -> bool:
    """Returns whether torchvision has its compiled operators, of which there are no stand-ins."""
    return not hasattr(_stand_in, "library") and torch._C._dispatch_has_kernel_for_dispatch_key(
        "torchvision::nms", "CPU"
    )


def _stand_in() -> None:
    """Replaces the operators that a torchvision without its compiled part lacks."""
    boxes: Any = sys.modules["torchvision.ops.boxes"]
    roi_align: Any = sys.modules["torchvision.ops.roi_align"]
    if hasattr(_stand_in, "library") or has_operators():
        return
    library = torch.library.Library("torchvision", "IMPL")
    library.impl("nms", _nms, "CPU")
    boxes._assert_has_ops = lambda: None
    roi_align._roi_align = _align
    _stand_in.library = library  # type: ignore[attr-defined]  # it ends with its object


def _nms(boxes: Any, scores: Any, threshold: float) -> Any:
    """Greedy non-maximum suppression, box by box."""
    order = np.argsort(-scores.detach().numpy(), kind="stable")
    found = boxes.detach().numpy()
    area = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        low = np.maximum(found[best, :2], found[rest, :2])
        high = np.minimum(found[best, 2:], found[rest, 2:])
        common = np.prod(np.maximum(high - low, 0), axis=1)
        order = rest[common / (area[best] + area[rest] - common) <= threshold]
    return torch.as_tensor(np.array(kept, np.int64))


def _align(
    maps: Any, rois: Any, scale: float, height: int, width: int, ratio: int, aligned: bool
) -> Any:
    """RoIAlign by `grid_sample`, box by box; `ratio` below 1 samples as often as a bin is long."""
    shift = 0.5 if aligned else 0.0
    results = []
    for roi in rois:
        x_1, y_1, x_2, y_2 = (roi[1:] * scale - shift).unbind()
        wide, high = x_2 - x_1, y_2 - y_1
        if not aligned:
            wide, high = wide.clamp(min=1), high.clamp(min=1)
        down = ratio if ratio > 0 else int(torch.ceil(high / height))
        across = ratio if ratio > 0 else int(torch.ceil(wide / width))
        y = y_1 + (torch.arange(height * down) + 0.5).to(roi) * high / (height * down)
        x = x_1 + (torch.arange(width * across) + 0.5).to(roi) * wide / (width * across)
        own = maps[int(roi[0])][None]
        limits = [max(side - 1, 1) for side in own.shape[2:]]
        grid = torch.stack(
            torch.meshgrid(2 * y / limits[0] - 1, 2 * x / limits[1] - 1, indexing="ij")[::-1], -1
        )
        cells = torch.nn.functional.grid_sample(
            own, grid[None].to(own), padding_mode="border", align_corners=True
        )
        inside = ((y >= -1) & (y <= own.shape[2]))[:, None] & ((x >= -1) & (x <= own.shape[3]))
        cells = cells * inside
        shape = (own.shape[1], height, down, width, across)
        results.append(cells.reshape(shape).mean(dim=(2, 4)))
    if not results:
        return maps.new_zeros((0, maps.shape[1], height, width))
    return torch.stack(results)
