"""PyTorch's ImageNet checkpoints as variables of `Classifier`.

A checkpoint is a mapping from dotted keys to arrays. Our modules carry the checkpoints' names as
far as Linen allows; the rules below translate the rest. Expected shapes come from the modules.
"""

import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from grnet_jax.backbones import BACKBONES, build_backbone, build_classifier
from grnet_jax.backbones.transformer import resize_positions
from grnet_jax.backbones.vgg import STAGES
from grnet_jax.errors import InputError

# Pattern and replacement, as of `re.sub`; applied one after the other.
_Rules = Sequence[tuple[str, str]]


class Converted(NamedTuple):
    """A checkpoint in this package's form.

    Attributes:
      variables: of `Classifier`, nested dicts of float32 arrays; no "head" where the checkpoint
        has none, no "batch_stats" where the backbone has no BatchNorm.
      left_out: keys that are known and not needed: auxiliary heads, batch counts.
      head: whether the checkpoint has a classification head.
      resized: the sides of the position embeddings' grid, there and here, where they differ.
    """

    variables: dict[str, Any]
    left_out: tuple[str, ...]
    head: bool
    resized: tuple[int, int] | None = None


class Network(NamedTuple):
    """Where a network lies in a checkpoint.

    Attributes:
      prefix: what its keys begin with and other keys do not; "" where all are its own.
      fitting: names of the backbones that it fits.
      closest: where there are none, the name of the one that most of it fits, if any.
    """

    prefix: str
    fitting: tuple[str, ...]
    closest: str = ""


class Names(NamedTuple):
    """How a family of checkpoints names its layers.

    Attributes:
      layers: from the dotted path of our module to the checkpoint's name.
      spellings: from other spellings of a key to the one that `layers` gives.
      logits: key whose array's first axis is the classes.
      left_out: pattern of keys that are not needed.
    """

    layers: _Rules
    spellings: _Rules = ()
    logits: str = "fc.weight"
    left_out: str = r"\.num_batches_tracked$"


def _vgg_names(norm: bool) -> Names:
    """Names by a layer's index in a list that counts ReLUs and poolings too."""
    layers = []
    index = 0
    for number, stage in enumerate(STAGES.values(), 1):
        for conv in range(1, stage.convolutions + 1):
            layers.append((rf"^stage{number}\.conv{conv}\.conv$", f"features.{index}"))
            layers.append((rf"^stage{number}\.conv{conv}\.bn$", f"features.{index + 1}"))
            index += 3 if norm else 2
        index += 1
    head = {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
    layers += [(f"^{ours}$", theirs) for ours, theirs in head.items()]
    # timm's heads, then Cadene's.
    spellings = (
        (r"^pre_logits\.fc1\.", "classifier.0."),
        (r"^pre_logits\.fc2\.", "classifier.3."),
        (r"^head\.fc\.", "classifier.6."),
        (r"^_features\.", "features."),
        (r"^linear0\.", "classifier.0."),
        (r"^linear1\.", "classifier.3."),
        (r"^last_linear\.", "classifier.6."),
    )
    return Names(tuple(layers), spellings, "classifier.6.weight")


RESNET_LAYERS = (
    (r"^layer(\d)_(\d+)", r"layer\1.\2"),
    (r"\bconv(\d)\.conv$", r"conv\1"),
    (r"\bconv(\d)\.bn$", r"bn\1"),
    (r"\bdownsample\.conv$", "downsample.0"),
    (r"\bdownsample\.bn$", "downsample.1"),
)
_RESNET_NAMES = Names(RESNET_LAYERS, ((r"^last_linear\.", "fc."),))
# Cadene's; timm calls these networks legacy.
_SENET_NAMES = Names(
    (
        *RESNET_LAYERS,
        (r"^(conv1|bn1)$", r"layer0.\1"),
        (r"\.se\.", ".se_module."),
        (r"^fc$", "last_linear"),
    ),
    logits="last_linear.weight",
)
_VIT_NAMES = Names(
    (
        (r"^patch_embed$", "patch_embed.proj"),
        (r"^blocks_(\d+)", r"blocks.\1"),
        (r"\.mlp_fc", ".mlp.fc"),
        (r"^fc$", "head"),
    ),
    logits="head.weight",
    # SigLIP's pooling, and what DINOv2 puts in the place of hidden patches in its own training.
    left_out=r"^attn_pool\.|^mask_token$",
)
_CONVNEXT_NAMES = Names(
    (
        (r"^stem_conv$", "stem.0"),
        (r"^stem_norm$", "stem.1"),
        (r"^stage(\d)_downsample_norm$", r"stages.\1.downsample.0"),
        (r"^stage(\d)_downsample_conv$", r"stages.\1.downsample.1"),
        (r"^stage(\d)_block(\d+)", r"stages.\1.blocks.\2"),
        (r"\.mlp_fc", ".mlp.fc"),
        (r"^(norm|fc)$", r"head.\1"),
    ),
    logits="head.fc.weight",
    left_out=r"(?!)",  # nothing
)


def _efficientnet_lite_names(depths: Sequence[int]) -> Names:
    """timm's names; other spellings are those of the packages of the index, which count blocks."""
    blocks = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    return Names(
        (
            (r"^(stem|head)\.conv$", r"conv_\1"),
            (r"^stem\.bn$", "bn1"),
            (r"^head\.bn$", "bn2"),
            (r"^fc$", "classifier"),
            # The first stage's blocks have two convolutions, the others three.
            (r"^stage0_(\d+)\.project\.conv$", r"blocks.0.\1.conv_pw"),
            (r"^stage0_(\d+)\.depthwise\.bn$", r"blocks.0.\1.bn1"),
            (r"^stage0_(\d+)\.project\.bn$", r"blocks.0.\1.bn2"),
            (r"^stage(\d)_(\d+)", r"blocks.\1.\2"),
            (r"\.depthwise\.conv$", ".conv_dw"),
            (r"\.expand\.conv$", ".conv_pw"),
            (r"\.project\.conv$", ".conv_pwl"),
            (r"\.expand\.bn$", ".bn1"),
            (r"\.depthwise\.bn$", ".bn2"),
            (r"\.project\.bn$", ".bn3"),
        ),
        (
            (r"^_bn1\.", "bn2."),
            (r"^_bn0\.", "bn1."),
            (r"^_conv_(stem|head)\.", r"conv_\1."),
            (r"^_fc\.", "classifier."),
            (r"^_blocks\.0\._project_conv\.", "blocks.0.0.conv_pw."),
            (r"^_blocks\.0\._bn", "blocks.0.0.bn"),
            *(
                (rf"^_blocks\.{number}\.", f"blocks.{stage}.{block}.")
                for number, (stage, block) in enumerate(blocks)
            ),
            (r"\._depthwise_conv\.", ".conv_dw."),
            (r"\._expand_conv\.", ".conv_pw."),
            (r"\._project_conv\.", ".conv_pwl."),
            (r"\._bn2\.", ".bn3."),
            (r"\._bn1\.", ".bn2."),
            (r"\._bn0\.", ".bn1."),
        ),
        logits="classifier.weight",
    )


_NAMES: Mapping[str, Names] = {
    "googlenet": Names(
        ((r"\bbranch(\d)_(\d)\b", r"branch\1.\2"),),
        ((r"^last_linear\.", "fc."),),
        left_out=r"^aux[12]\.|\.num_batches_tracked$",
    ),
    "vgg16": _vgg_names(norm=False),
    "vgg16_bn": _vgg_names(norm=True),
    "resnet50": _RESNET_NAMES,
    "resnext101_32x8d": _RESNET_NAMES,
    "seresnet50": _RESNET_NAMES,
    "seresnext50_32x4d": _RESNET_NAMES,
    "legacy_seresnet50": _SENET_NAMES,
    "legacy_seresnext50_32x4d": _SENET_NAMES,
    "densenet121": Names(
        (
            (r"^(?!fc$)", "features."),
            (r"\.conv0\.conv$", ".conv0"),
            (r"\.conv0\.bn$", ".norm0"),
            (r"^fc$", "classifier"),
        ),
        (
            # As the released file spells the layers inside a dense layer.
            (r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2"),
            (r"^last_linear\.", "classifier."),
        ),
        logits="classifier.weight",
    ),
    "vit_small_patch14_dinov2": _VIT_NAMES,
    "vit_base_patch14_dinov2": _VIT_NAMES,
    "vit_small_patch14_reg4_dinov2": _VIT_NAMES,
    "vit_base_patch16_siglip_224": _VIT_NAMES,
    "convnext_tiny": _CONVNEXT_NAMES,
    "convnext_base": _CONVNEXT_NAMES,
    **{
        name: _efficientnet_lite_names(build_backbone(name).depths)
        for name in BACKBONES
        if name.startswith("efficientnet_lite")
    },
}
# The last part of a key, by our name of the variable.
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "gamma": "gamma",
    "cls_token": "cls_token",
    "reg_token": "reg_token",
    "pos_embed": "pos_embed",
}
_NAMED = 10  # keys that a message lists
_FEWEST = 20  # tensors of a network; fewer under one prefix are a layer's


class Variable(NamedTuple):
    """One variable of ours: its path from the collection down, and its shape."""

    path: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def in_head(self) -> bool:
        """Returns whether it belongs to the classification head."""
        return self.path[1] == "head"

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """Of the same array in PyTorch: [out, in, h, w] or [out, in]; tokens [1, t, c] as here."""
        if len(self.shape) == 3:
            return self.shape
        if len(self.shape) == 4:
            return tuple(self.shape[axis] for axis in (3, 2, 0, 1))
        return self.shape[::-1]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether this variable can hold PyTorch's array of that shape."""
        if len(shape) == 4 and len(self.shape) == 2:  # timm's VGG has convolutions in its head
            shape = (shape[0], math.prod(shape[1:]))
        if self.is_positions and len(shape) == 3:  # of any square grid: they are resized
            same = _extra_positions(shape) == _extra_positions(self.shape)
            return same and shape[::2] == self.shape[::2]
        return shape == self.torch_shape

    @property
    def is_positions(self) -> bool:
        """Returns whether it is a transformer's position embeddings."""
        return self.path[-1] == "pos_embed"

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        """Returns PyTorch's array in our order of axes."""
        if self.path[-2:] == ("conv5_mask", "kernel"):  # a transposed convolution [in, out, h, w]
            return np.ascontiguousarray(array.transpose(2, 3, 0, 1))
        if self.is_positions and array.shape != self.shape:
            extra, side = _extra_positions(self.shape), math.isqrt(self.shape[1])
            grid = resize_positions(jnp.asarray(array[:, extra:]), side, side)
            array = np.concatenate([array[:, :extra], grid], axis=1)
        array = array.reshape(self.torch_shape)
        if self.path[-2:] == ("fc6", "kernel"):
            # A 7x7 map flattened: channels come first in PyTorch, last in ours.
            cells = array.reshape(len(array), -1, 7, 7)
            array = cells.transpose(0, 2, 3, 1).reshape(array.shape)
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        elif array.ndim == 2:
            array = array.T
        return np.ascontiguousarray(array)


def _extra_positions(shape: tuple[int, ...]) -> int:
    """Returns how many position embeddings of [1, t, c] stand before those of a square grid."""
    return shape[1] - math.isqrt(shape[1]) ** 2


class Match(NamedTuple):
    """A checkpoint's tensors beside a backbone's variables.

    Attributes:
      pairs: variable, and its key in the checkpoint as spelt there.
      left_out: keys that are not needed.
      missing: keys of variables without tensors.
      unknown: keys of tensors without variables.
      mis_shaped: key, found and expected shape.
    """

    pairs: list[tuple[Variable, str]]
    left_out: tuple[str, ...]
    missing: list[str]
    unknown: list[str]
    mis_shaped: list[tuple[str, tuple[int, ...], tuple[int, ...]]]

    @property
    def fits(self) -> bool:
        """Returns whether every tensor has its variable and every variable its tensor."""
        return not (self.missing or self.unknown or self.mis_shaped)


def convert_tensors(backbone: str, tensors: Mapping[str, np.ndarray]) -> Converted:
    """Converts a PyTorch checkpoint to the variables of a backbone and its ImageNet head.

    Keys may be torchvision's, timm's or Cadene's. The head may have any number of classes, or
    be missing. Floating-point arrays of any precision become float32.

    Args:
      backbone: its name.
      tensors: the checkpoint's arrays by key.

    Raises:
      InputError: for an unknown backbone or one without such checkpoints; listing the keys that
        are missing, unknown or of another shape, with the backbone that fits if one does; or
        naming arrays that are not finite floating-point numbers.
    """
    if backbone not in _NAMES:
        raise InputError(f"backbone {backbone!r}: checkpoints can be read for {sorted(_NAMES)}")
    match = _match(backbone, tensors)
    if not match.fits:
        raise InputError(_misfit(backbone, match, tensors))
    variables = take_tensors(match, tensors)
    resized = None
    for variable, key in match.pairs:
        shape = np.shape(tensors[key])
        if variable.is_positions and shape != variable.shape:
            resized = math.isqrt(shape[1]), math.isqrt(variable.shape[1])
    head = any(variable.in_head for variable, _ in match.pairs)
    return Converted(variables, match.left_out, head, resized)


def take_tensors(match: Match, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the variables of a match, nested dicts of float32 arrays.

    Raises:
      InputError: naming arrays that are not finite floating-point numbers.
    """
    flat = {}
    bad = []
    for variable, key in match.pairs:
        array = np.asarray(tensors[key])
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise InputError(f"{key}: expected floating-point numbers, found {array.dtype}")
        with np.errstate(over="ignore"):  # an overflow shows as infinity just below
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            bad.append(key)
        flat[variable.path] = variable.from_torch(array)
    if bad:
        raise InputError(f"not all numbers are finite in {some_of(bad)}")
    return traverse_util.unflatten_dict(flat)


def fitting_backbones(tensors: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Returns the names of the backbones that these tensors' keys and shapes fit."""
    return tuple(name for name in _NAMES if _match(name, tensors).fits)


def find_network(tensors: Mapping[str, np.ndarray], backbone: str = "") -> Network:
    """Finds the network in a checkpoint that fits a backbone, as it is or under a prefix of keys.

    What a network was trained in puts names before its keys, as `model.`, `student.backbone.` or
    `encoder_q.`, and its own tensors beside them, as heads and counts.

    Args:
      tensors: the checkpoint's arrays by key.
      backbone: the name of the only one that counts; "" for any.

    Raises:
      InputError: several fit, under different prefixes.
    """
    names = [backbone] if backbone in _NAMES else list(_NAMES)
    found, closest = [], (0.5, Network("", ()))
    for prefix in ["", *_prefixes(tensors)]:
        inner = under(tensors, prefix)
        matches = {name: _match(name, inner) for name in names}
        if fitting := tuple(name for name, match in matches.items() if match.fits):
            found.append(Network(prefix, fitting))
            if not prefix:
                break
        for name, match in matches.items():
            share = len(match.pairs) / max(len(inner), len(match.pairs) + len(match.missing))
            closest = max(closest, (share, Network(prefix, (), name)), key=lambda pair: pair[0])
    if len(found) > 1:
        prefixes = ", ".join(repr(network.prefix) for network in found)
        raise InputError(f"holds several networks, under {prefixes}; choose one with --entry")
    return found[0] if found else closest[1]


def under(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Returns the tensors whose keys begin with the prefix, which is taken away."""
    return {key[len(prefix) :]: array for key, array in tensors.items() if key.startswith(prefix)}


def _prefixes(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Returns what the keys of a network can begin with: up to three names."""
    counts: Counter[str] = Counter()
    for key in tensors:
        names = key.split(".")[:-1]
        counts.update(".".join(names[:end]) + "." for end in range(1, min(len(names), 3) + 1))
    return [prefix for prefix, count in counts.most_common() if count >= _FEWEST]


def _match(backbone: str, tensors: Mapping[str, np.ndarray]) -> Match:
    names = _NAMES[backbone]
    found = {rewrite(key, names.spellings): key for key in tensors}
    logits = np.shape(tensors[found[names.logits]]) if names.logits in found else ()
    expected = _variables(backbone, logits[0] if logits and logits[0] else 1000)
    if not any(variable.in_head and key in found for key, variable in expected.items()):
        expected = {key: value for key, value in expected.items() if not value.in_head}
    return match_tensors(names, expected, tensors)


def match_tensors(
    names: Names, expected: Mapping[str, Variable], tensors: Mapping[str, np.ndarray]
) -> Match:
    """Lays a checkpoint's tensors beside a network's variables.

    Args:
      names: the checkpoint's.
      expected: the variables by their keys in a checkpoint.
      tensors: the checkpoint's arrays by key.
    """
    left_out, unknown = [], []
    found: dict[str, str] = {}  # our spelling to the checkpoint's
    for key in tensors:
        spelt = rewrite(key, names.spellings)
        if re.search(names.left_out, key):
            left_out.append(key)
        elif spelt in found:
            unknown.append(key)  # a second spelling of the same
        else:
            found[spelt] = key
    pairs, missing, mis_shaped = [], [], []
    for spelt, variable in expected.items():
        if spelt not in found:
            missing.append(spelt)
            continue
        key = found[spelt]
        shape = tuple(np.shape(tensors[key]))
        if variable.fits(shape):
            pairs.append((variable, key))
        else:
            mis_shaped.append((key, shape, variable.torch_shape))
    unknown += [key for spelt, key in found.items() if spelt not in expected]
    return Match(pairs, tuple(left_out), missing, unknown, mis_shaped)


@functools.lru_cache(maxsize=32)
def _variables(backbone: str, classes: int) -> Mapping[str, Variable]:
    """Returns the variables of a backbone and its head, by their key in a checkpoint."""
    shapes = jax.eval_shape(
        build_classifier(backbone, classes).init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32),
    )
    return name_variables(shapes, lambda path: rewrite(".".join(path[2:]), _NAMES[backbone].layers))


def name_variables(
    shapes: Any, layer_name: Callable[[tuple[str, ...]], str]
) -> dict[str, Variable]:
    """Returns variables by their key in a checkpoint.

    Args:
      shapes: nested dicts with a shape for each.
      layer_name: the checkpoint's name of a layer, by its path from the collection down.
    """
    variables = {}
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        key = ".".join(filter(None, [layer_name(path[:-1]), _LEAVES[path[-1]]]))
        variables[key] = Variable(path, leaf.shape)
    return variables


def rewrite(name: str, rules: _Rules) -> str:
    """Applies rules to a name, one after the other."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _misfit(backbone: str, match: Match, tensors: Mapping[str, np.ndarray]) -> str:
    """Describes a checkpoint that does not fit."""
    message = f"the checkpoint does not fit backbone {backbone!r}; {describe_misfit(match)}"
    others = fitting_backbones(tensors)
    if others:
        return f"{message}; it fits {' and '.join(map(repr, others))}"
    wanted = len(match.pairs) + len(match.missing) + len(match.mis_shaped)
    if len(match.pairs) < max(len(tensors), wanted) / 2:
        return f"{message}; most keys do not fit, so it is probably of another architecture"
    return message


def describe_misfit(match: Match) -> str:
    """Returns what is missing, unknown or of another shape, for messages."""
    parts = []
    if match.missing:
        parts.append(f"missing: {some_of(match.missing)}")
    if match.unknown:
        parts.append(f"unknown: {some_of(match.unknown)}")
    if match.mis_shaped:
        shapes = (
            f"{key} (found {found}, expected {wanted})" for key, found, wanted in match.mis_shaped
        )
        parts.append(f"of another shape: {some_of(list(shapes))}")
    return "; ".join(parts)


def some_of(keys: Sequence[str], most: int = _NAMED) -> str:
    """Returns the first keys, and how many more there are, for messages."""
    more = len(keys) - most
    return ", ".join(keys[:most]) + (f" and {more} more" if more > 0 else "")
