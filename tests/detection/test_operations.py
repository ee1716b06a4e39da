"""The pure functions of detection, against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grnet_jax.detect.__main__ import crop_rows
from grnet_jax.detection import boxes, matching
from grnet_jax.detection.anchors import anchors
from grnet_jax.detection.masks import crop_masks, paste_mask
from grnet_jax.detection.nms import keep_best
from grnet_jax.detection.photos import PhotoDetections
from grnet_jax.detection.proposals import Proposals, choose_detections
from grnet_jax.detection.roi_align import roi_align


def random_boxes(rng, n, side=60.0):
    corners = rng.uniform(0, side, (n, 2))
    return np.concatenate([corners, corners + rng.uniform(1, side / 2, (n, 2))], 1).astype("f4")


def naive_iou(a, b):
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    common = max(wide, 0) * max(high, 0)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return common / (areas - common) if areas > common else 0.0


def test_iou():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 7), random_boxes(rng, 5)
    a[0] = b[0] = 3  # empty
    expected = [[naive_iou(x, y) for y in b.astype(float)] for x in a.astype(float)]
    np.testing.assert_allclose(jax.jit(boxes.iou)(a, b), expected, atol=1e-6)


def test_coding():
    """Deltas by their definition, and back."""
    rng = np.random.default_rng(1)
    targets, references = random_boxes(rng, 9), random_boxes(rng, 9)
    weights = (10.0, 10.0, 5.0, 5.0)
    encode, decode = (jax.jit(code, static_argnums=2) for code in (boxes.encode, boxes.decode))
    deltas = np.asarray(encode(targets, references, weights))
    for target, reference, delta in zip(targets, references, deltas, strict=True):
        wide, high = reference[2] - reference[0], reference[3] - reference[1]
        expected = (
            10 * ((target[0] + target[2]) - (reference[0] + reference[2])) / 2 / wide,
            10 * ((target[1] + target[3]) - (reference[1] + reference[3])) / 2 / high,
            5 * np.log((target[2] - target[0]) / wide),
            5 * np.log((target[3] - target[1]) / high),
        )
        np.testing.assert_allclose(delta, expected, atol=1e-4)
    np.testing.assert_allclose(decode(deltas, references, weights), targets, atol=1e-4)
    huge = decode(np.float32([[0, 0, 99, 99]]), references[:1], (1.0,) * 4)[0]
    assert huge[2] - huge[0] == pytest.approx(
        62.5 * (references[0, 2] - references[0, 0]), rel=1e-5
    )


def test_anchors_of_a_pyramid_of_whole_and_broken_strides():
    first, last = anchors((800, 1088), [(200, 272), (13, 17)], [32, 512])
    assert (len(first), len(last)) == (163_200, 663)
    np.testing.assert_array_equal(
        first[:3], [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    )
    np.testing.assert_array_equal(first[3] - first[0], [4, 0, 4, 0])
    np.testing.assert_array_equal(last[3] - last[0], [64, 0, 64, 0])
    np.testing.assert_array_equal(last[17 * 3] - last[0], [0, 61, 0, 61])


def naive_nms(found, valid, threshold, group):
    kept = np.zeros(len(found), bool)
    for i in range(len(found)):
        kept[i] = valid[i] and not any(
            kept[j] and group[i] == group[j] and naive_iou(found[i], found[j]) > threshold
            for j in range(i)
        )
    return kept


@pytest.mark.parametrize(("n", "groups", "threshold"), [(1, 1, 0.5), (40, 1, 0.3), (600, 3, 0.7)])
def test_nms_is_greedy(n, groups, threshold):
    rng = np.random.default_rng(n)
    found = random_boxes(rng, n, 30.0)
    if n == 40:  # a chain, each box of which overlaps the next: its fixpoint is the farthest away
        found = np.float32([[i, 0, i + 2.5, 1] for i in range(n)])
    valid, group = rng.random(n) < 0.9, rng.integers(groups, size=n).astype(np.int32)
    kept = np.asarray(jax.jit(keep_best, static_argnums=2)(found, valid, threshold, group))
    # In float32, as IoU at the threshold may fall either way.
    np.testing.assert_array_equal(kept, naive_nms(found, valid, np.float32(threshold), group))
    assert kept.any()


def naive_roi_align(maps, box, size, canonical):
    strides = sorted(maps)
    root = np.sqrt(max(box[2] - box[0], 0) * max(box[3] - box[1], 0))
    level = int(
        np.clip(
            np.floor(4 + np.log2(root / canonical) + 1e-6),
            np.log2(strides[0]),
            np.log2(strides[-1]),
        )
    )
    cells = maps[2**level].astype(float)
    x_1, y_1, x_2, y_2 = box / 2**level
    high, wide = max(y_2 - y_1, 1) / size, max(x_2 - x_1, 1) / size
    result = np.zeros((size, size, cells.shape[2]))
    for i, j in np.ndindex(size, size):
        for a, b in np.ndindex(2, 2):
            y, x = y_1 + (i + (a + 0.5) / 2) * high, x_1 + (j + (b + 0.5) / 2) * wide
            if -1 <= y <= cells.shape[0] and -1 <= x <= cells.shape[1]:
                result[i, j] += bilinear(cells, y, x) / 4
    return result


def bilinear(cells, y, x):
    y, x = np.clip(y, 0, cells.shape[0] - 1), np.clip(x, 0, cells.shape[1] - 1)
    low, left = int(y), int(x)
    down, right = min(low + 1, cells.shape[0] - 1), min(left + 1, cells.shape[1] - 1)
    top = cells[low, left] * (left + 1 - x) + cells[low, right] * (x - left)
    bottom = cells[down, left] * (left + 1 - x) + cells[down, right] * (x - left)
    return top * (low + 1 - y) + bottom * (y - low)


def test_roi_align_and_its_gradient():
    rng = np.random.default_rng(2)
    maps = {4: rng.normal(size=(16, 12, 3)), 8: rng.normal(size=(8, 6, 3))}
    maps = {stride: cells.astype(np.float32) for stride, cells in maps.items()}
    found = random_boxes(rng, 9, 40.0)
    found[0] = [-20, -20, 200, 90]
    found[1] = [5, 5, 5.5, 5.2]  # smaller than a cell
    expected = [naive_roi_align(maps, box, 3, 12.0) for box in found.astype(float)]
    align = jax.jit(lambda maps: roi_align(maps, found, 3, 12.0))
    result = align(maps)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    slope = rng.normal(size=result.shape).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda maps: jnp.sum(align(maps) * slope)))(maps)
    # The operation is linear in the maps: its gradient is its transpose.
    for stride, cells in maps.items():
        others = {s: np.zeros_like(m) for s, m in maps.items()}
        for place in [(0, 0, 0), (3, 2, 1), (cells.shape[0] - 1, cells.shape[1] - 1, 2)]:
            unit = {**others, stride: np.zeros_like(cells)}
            unit[stride][place] = 1
            expected = np.sum(np.asarray(align(unit)) * slope)
            assert gradient[stride][place] == pytest.approx(expected, abs=1e-4)


def test_matching():
    overlap = np.float32(
        [[0.9, 0.5, 0.2, 0.0], [0.1, 0.6, 0.2, 0.0], [0.0, 0.0, 0.0, 0.0], [1, 1, 1, 1]]
    )
    valid = np.array([True, True, True, False])
    match = jax.jit(matching.match, static_argnames="every_object")
    plain = match(overlap, valid, 0.3, 0.7)
    assert plain.tolist() == [0, matching.IGNORED, matching.NEGATIVE, matching.NEGATIVE]
    every = match(overlap, valid, 0.3, 0.7, every_object=True)
    assert every.tolist() == [0, 1, matching.NEGATIVE, matching.NEGATIVE]
    nothing = match(overlap, np.zeros(4, bool), 0.3, 0.7, every_object=True)
    assert nothing.tolist() == [matching.NEGATIVE] * 4


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [(20, 60, (8, 24)), (3, 60, (3, 29)), (20, 5, (8, 5)), (0, 0, (0, 0))],
)
def test_sampling(positives, negatives, expected):
    positive = np.arange(100) < positives
    negative = (np.arange(100) >= 40) & (np.arange(100) < 40 + negatives)
    sample = jax.jit(matching.sample, static_argnums=(3, 4))
    index, is_positive, drawn = map(
        np.asarray, sample(jax.random.key(0), positive, negative, 32, 8)
    )
    assert (is_positive.sum(), (drawn & ~is_positive).sum()) == expected
    assert positive[index[is_positive]].all()
    assert negative[index[drawn & ~is_positive]].all()
    assert len(set(index[drawn])) == drawn.sum()
    assert is_positive[: expected[0]].all()  # where the mask branch looks for them


def test_objectness_is_what_the_background_leaves():
    logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    box = np.array([(20 * n, 10, 20 * n + 15, 40) for n in range(5)], np.float32)
    found = choose_detections(
        logits,
        np.zeros((5, 4, 4), np.float32),
        Proposals(box, np.ones(5, bool)),
        np.array([100, 100]),
        candidates=15,
        most=15,
        threshold=0.0,
    )
    assert found.valid.all()
    row = np.array(found.box)[:, 0].astype(int) // 20
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.score, shares[row, found.label], rtol=1e-5)
    np.testing.assert_allclose(found.objectness, shares[row, 1:].sum(axis=1), rtol=1e-5)


def test_masks_are_cut_by_area():
    rng = np.random.default_rng(3)
    mask = rng.random((1, 8, 8)).astype(np.float32)
    own, other = np.float32([[10, 20, 26, 36]]), np.float32([[13, 17, 27, 33]])
    crop = jax.jit(crop_masks, static_argnums=3)
    result = np.asarray(crop(mask, own, other, 4))[0]
    fine = 64  # samples of each cell
    expected = np.zeros((4, 4))
    for i, j in np.ndindex(4, 4):
        y = 17 + 4 * (i + (np.arange(fine) + 0.5) / fine)
        x = 13 + 3.5 * (j + (np.arange(fine) + 0.5) / fine)
        rows, columns = np.floor((y - 20) / 2).astype(int), np.floor((x - 10) / 2).astype(int)
        inside = ((rows >= 0) & (rows < 8))[:, None] & ((columns >= 0) & (columns < 8))
        values = mask[0][np.clip(rows, 0, 7)[:, None], np.clip(columns, 0, 7)]
        expected[i, j] = (values * inside).mean()
    np.testing.assert_allclose(result, expected, atol=0.02)
    np.testing.assert_allclose(crop(mask, own, own, 8)[0], mask[0], atol=1e-6)


def test_a_full_mask_fills_its_box():
    pasted = paste_mask(np.ones((28, 28), np.float32), np.float32([4, 6, 20, 30]), 40, 24)
    rows, columns = np.where(pasted)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (4, 6, 20, 30)
    assert not paste_mask(np.ones((28, 28), np.float32), np.float32([90, 90, 99, 99]), 40, 24).any()


def test_lines_of_boxes():
    """A class stands for every category that it shows; what is no object is left out."""
    box = np.float32([[1, 2, 3, 4], [5, 6, 7, 9], [0, 0, 9, 9]])
    names = np.array(["pants", "top", "pants"])
    found = PhotoDetections(
        (10, 10), box, np.float32([0.9, 0.8, 0.7]), names, np.float32([1, 1, 0.5])
    )
    shown = {"leggings": ["pants"], "pants": ["pants", "shorts"], "hats": ["headwear"]}
    rows = list(crop_rows("a.jpg", found, shown))
    assert [(row["x_1"], row["category"]) for row in rows] == [(1.0, "leggings"), (1.0, "pants")]
    rows = list(crop_rows("a.jpg", found, None))
    assert [(row["class"], row["category"]) for row in rows] == [("pants", ""), ("top", "")]
