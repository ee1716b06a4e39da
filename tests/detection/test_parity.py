"""The whole detector against torchvision's, with random weights converted from it."""

import functools

import jax
import numpy as np
import pytest

from grnet_jax.backbones.pretrained import conversion
from grnet_jax.config import parse_config
from grnet_jax.detect.convert import _config, convert_detector
from grnet_jax.detection import matching
from grnet_jax.detection.masks import paste_mask
from grnet_jax.errors import InputError
from grnet_jax.models import build_matcher

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make parity")
pytestmark = pytest.mark.slow

CANVAS = (128, 160)
SIZES = [(128, 160), (128, 128)]  # the second is padded


def tensors_of(peer):
    return {key: value.numpy() for key, value in peer.state_dict().items()}


def photos():
    rng = np.random.default_rng(0)
    coarse = rng.random((2, 3, 8, 10), np.float32)
    large = torch.nn.functional.interpolate(torch.from_numpy(coarse), CANVAS, mode="bicubic")
    return (255 * large.clamp(0, 1)).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def make_pair(name, **options):
    """torchvision's detector, ours and its variables."""
    from benchmarks.torch_detectors import make_detector

    sizes = {"min_size": 128, "max_size": 160, "num_classes": 6}
    kept = {f"rpn_p{p}_nms_top_n_{s}": 200 for p in ("re", "ost") for s in ("train", "test")}
    peer = make_detector(name, **sizes, **kept, box_detections_per_img=30, **options)
    model, variables = convert_detector(tensors_of(peer))
    limits = {"before_nms": (200, 200), "after_nms": (200, 200), "detections": 30}
    config = parse_config(_config("", {**model, **limits, "canvas": CANVAS}))
    return peer, build_matcher(config.model), variables


def run_peer(peer, images):
    given = [
        torch.from_numpy(image[:h, :w].astype(np.float32) / 255).permute(2, 0, 1)
        for image, (h, w) in zip(images, SIZES, strict=True)
    ]
    with torch.no_grad():
        return peer(given)


# Of two kinds and two versions, each once.
NAMES = ("maskrcnn_resnet50_fpn_v2", "fasterrcnn_resnet50_fpn")


@pytest.mark.parametrize("name", NAMES)
def test_boxes_scores_and_masks_are_torchvisions(name):
    peer, detector, variables = make_pair(name)
    images = photos()
    expected = run_peer(peer, images)
    found = jax.jit(detector.apply)(variables, images, np.array(SIZES, np.int32))
    for place, wanted in enumerate(expected):
        count = len(wanted["boxes"])
        assert count > 10
        assert int(found.valid[place].sum()) == count
        for ours, theirs, atol in (
            (found.box, "boxes", 1e-3 * 160),
            (found.score, "scores", 1e-3),
            (found.category + 1, "labels", 0),
        ):
            np.testing.assert_allclose(ours[place, :count], wanted[theirs].numpy(), atol=atol)
        if "masks" in wanted:
            check_masks(found, place, wanted["masks"].numpy()[:, 0])


def check_masks(found, place, pasted):
    """Masks in the photo differ in few pixels, those at which they are a half."""
    for number, wanted in enumerate(pasted):
        box, mask = np.asarray(found.box[place, number]), np.asarray(found.mask[place, number])
        ours = paste_mask(mask, box, *SIZES[place])
        sure = np.abs(wanted - 0.5) > 2e-3
        np.testing.assert_array_equal(ours[sure], (wanted > 0.5)[sure])
        assert sure.mean() > 0.99


def objects():
    box = np.zeros((2, 4, 4), np.float32)
    box[0, :3] = [[10, 12, 70, 90], [60, 20, 150, 120], [5, 80, 45, 125]]
    box[1, :1] = [[30, 10, 100, 118]]
    valid = np.arange(4) < np.array([[3], [1]])
    category = np.where(valid, [[0, 3, 1, 0], [2, 0, 0, 0]], -1).astype(np.int32)
    return {"box": box, "valid": valid, "category": category, "ignore": np.zeros((2, 4), bool)}


def train_peer(peer, images, known):
    """torchvision's losses; BatchNorm keeps its statistics."""
    peer.train()
    for layer in peer.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.eval()
    inputs, wanted = [], []
    for image, (high, wide), box, valid, category in zip(
        images, SIZES, known["box"], known["valid"], known["category"], strict=True
    ):
        masks = np.zeros((valid.sum(), high, wide), np.uint8)
        for mask, (x_1, y_1, x_2, y_2) in zip(masks, box[valid].astype(int), strict=True):
            mask[y_1:y_2, x_1:x_2] = 1
        labels = torch.from_numpy(category[valid].astype(np.int64) + 1)
        boxes_given = torch.from_numpy(box[valid])
        wanted.append({"boxes": boxes_given, "labels": labels, "masks": torch.from_numpy(masks)})
        pixels = image[:high, :wide].astype(np.float32) / 255
        inputs.append(torch.from_numpy(pixels).permute(2, 0, 1))
    with torch.no_grad():
        return {name: float(value) for name, value in peer(inputs, wanted).items()}


def draw_as_ours(key, proposals, count):
    """In the place of torchvision's sampler: what we draw of the same anchors and proposals."""
    calls = iter([(0, 256, 128), (1, count, count // 4)])

    def sample(_, labels):
        which, number, most = next(calls)
        chosen = []
        for image, label in enumerate(labels):
            own = jax.random.split(jax.random.fold_in(key, image))[which]
            place = np.arange(len(label))
            if which:  # our padding stands between the proposals and the objects, and behind them
                objects_here = [3, 1][image]
                place[-objects_here:] = proposals + np.arange(objects_here)
            padded = np.full(proposals + 4 if which else len(label), -1)
            padded[place] = label.numpy()
            drawn = matching.sample(own, padded >= 1, padded == 0, number, most)
            index, positive, there = map(np.asarray, drawn)
            masks = np.zeros((2, len(padded)), np.uint8)
            masks[0, index[positive]] = 1
            masks[1, index[there & ~positive]] = 1
            chosen.append(torch.from_numpy(masks[:, place]))
        return tuple(zip(*chosen, strict=True))

    return sample


def test_losses_are_torchvisions(monkeypatch):
    peer, detector, variables = make_pair("maskrcnn_resnet50_fpn")
    images, known, key = photos(), objects(), jax.random.key(3)
    sampler = type(peer.rpn.fg_bg_sampler)
    monkeypatch.setattr(sampler, "__call__", draw_as_ours(key, 200, 512))
    wanted = train_peer(peer, images, known)
    batch = {
        **known,
        "image": images,
        "size": np.array(SIZES, np.int32),
        "has_mask": known["valid"],
        "mask": np.full((2, 4, 112, 112), 255, np.uint8),
    }
    values, _ = jax.jit(
        lambda batch: detector.apply(
            variables, batch, key, False, method="losses", mutable=["batch_stats"]
        )
    )(batch)
    names = {
        **{"loss_class": "loss_classifier", "loss_box": "loss_box_reg", "loss_mask": "loss_mask"},
        **{"loss_objectness": "loss_objectness", "loss_rpn_box": "loss_rpn_box_reg"},
    }
    for ours, theirs in names.items():
        # Masks are sampled otherwise, at half a pixel's distance.
        tolerance = 0.05 if ours == "loss_mask" else 1e-4
        assert float(values[ours]) == pytest.approx(wanted[theirs], rel=tolerance), ours


def as_released(tensors):
    """The keys of files from before torchvision 0.13, whose BatchNorm has no counts."""
    rules = [
        (r"^(backbone\.fpn\.\w+_blocks\.\d)\.0\.", r"\1."),
        (r"^rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
        *((rf"mask_head\.{n}\.0\.", f"mask_head.mask_fcn{n + 1}.") for n in range(4)),
    ]
    return {
        conversion.rewrite(key, rules): value
        for key, value in tensors.items()
        if "num_batches" not in key
    }


def test_released_files_of_maskrcnn():
    from benchmarks.torch_detectors import make_detector

    tensors = tensors_of(make_detector("maskrcnn_resnet50_fpn", num_classes=6))
    _, wanted = convert_detector(tensors)
    released = as_released(tensors)
    assert "roi_heads.mask_head.mask_fcn4.bias" in released
    model, variables = convert_detector(released, without_epsilon=True)
    assert (model["num_classes"], model["version"], model["mask_channels"]) == (5, "v1", 256)
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["fpn"], wanted["params"]["fpn"])
    # Of BatchNorm without epsilon: what it multiplies by.
    path = ("backbone", "layer2_1", "conv2", "bn")
    scale, var, given, statistics = (
        functools.reduce(dict.__getitem__, path, tree[kind])[leaf].astype(np.float64)
        for tree in (variables, wanted)
        for kind, leaf in (("params", "scale"), ("batch_stats", "var"))
    )
    np.testing.assert_allclose(scale / np.sqrt(var + 1e-5), given / np.sqrt(statistics), rtol=1e-6)


def test_what_is_no_detector_is_named():
    with pytest.raises(InputError, match=r"is no Faster R-CNN .* keys begin with a, b"):
        convert_detector({"a": np.zeros(1), "b": np.zeros(1)})
