"""Values of a manifest that make no sense, or contradict each other, are refused before anything is loaded."""

from collections.abc import Callable

from glimpse_models.families import ARCHITECTURES, light
from glimpse_runtime.bundle.anchors import is_anchor
from glimpse_runtime.bundle.manifest import LARGEST_ROPE_THETA, Manifest, Profile
from glimpse_runtime.errors import BundleFormatError

STAGES = ("vision", "lower", "score", "upper")
UPDATE_STAGE = "vision_update"
"""The optional stage that runs the changed patches of an encoded image again."""
PROFILES = ("patches", "visual_tokens", "rows", "kept", "context")
DTYPES = ("float32", "float16", "bfloat16", "int64", "int32", "bool")
LONGEST = 1 << 20
_MOST_LAYERS = 1 << 12
ATTENTIONS = ("scores", "log_softmax")
_PAST = "past."


def check_values(manifest: Manifest, where: str) -> None:
    """Checks ranges and agreement of a manifest's values.

    Args:
        manifest: the manifest, whose keys and types are right.
        where: what to call the file in errors.

    Raises:
        BundleFormatError: naming the first value that makes no sense.
    """
    if not manifest.graphs:
        raise BundleFormatError(f"{where}: there are no graphs; export the model again")
    for dialect, stages in manifest.graphs.items():
        for name in STAGES:
            if name not in stages:
                raise BundleFormatError(f"{where}: stage {name!r} of {dialect} is missing; export the model again")
    for name in PROFILES:
        if name not in manifest.profiles:
            raise BundleFormatError(f"{where}: profile {name!r} is missing; export the model again")
    _check_family(manifest, where)
    for key, good in _CHECKS.items():
        if not good(manifest):
            raise BundleFormatError(f"{where}: the values of {key} make no sense; export the model again")


def _check_family(manifest: Manifest, where: str) -> None:
    """Has the family look at its own record; it is found by name, since it stands above this room."""
    family = light(manifest.model.architecture)
    if family is None:
        raise BundleFormatError(
            f"{where}: the architecture {manifest.model.architecture!r} is not known to this version, which runs "
            f"{', '.join(ARCHITECTURES)}; install the version of glimpse-edge that wrote the bundle"
        )
    family.read(manifest, where)


def _profiles(manifest: Manifest) -> bool:
    def ordered(profile: Profile) -> bool:
        return 1 <= profile.min <= profile.opt <= profile.max <= LONGEST * 4

    return all(ordered(profile) for profile in manifest.profiles.values())


def _text(manifest: Manifest) -> bool:
    text = manifest.text
    sizes = (text.hidden_size, text.heads, text.kv_heads, text.head_dim, text.vocab_size)
    sections = bool(text.rope_sections) and min(text.rope_sections) >= 0
    rope = sections and sum(text.rope_sections) * 2 == text.head_dim and 1 <= text.rope_theta <= LARGEST_ROPE_THETA
    layers = 1 <= text.lower_layers <= text.layers <= _MOST_LAYERS
    return layers and min(sizes) >= 1 and max(sizes) <= LONGEST * 16 and rope


def _vision(manifest: Manifest) -> bool:
    vision = manifest.vision
    sizes = (vision.patch_size, vision.merge_size, vision.hidden_size)
    return min(sizes) >= 1 and max(sizes) <= LONGEST


def _glimpse(manifest: Manifest) -> bool:
    glimpse = manifest.glimpse
    inside = all(0 <= layer < manifest.text.lower_layers for layer in glimpse.selected_layers)
    return glimpse.length >= 0 and bool(glimpse.selected_layers) and inside and glimpse.attention in ATTENTIONS


def _scorer(manifest: Manifest) -> bool:
    scorer = manifest.scorer
    return (
        scorer.head_dim >= 4
        and scorer.head_dim % 4 == 0
        and 1 <= scorer.rope_theta <= LARGEST_ROPE_THETA
        and scorer.output_rows >= 1
    )


def _pruning(manifest: Manifest) -> bool:
    rule = manifest.pruning
    ratios = 0 <= rule.threshold <= 1 and 0 <= (rule.max_keep_ratio or 0) <= 1
    return ratios and (rule.min_keep or 0) >= 0 and all(map(is_anchor, rule.anchors))


def _tokens(manifest: Manifest) -> bool:
    # An image token of its own, which no embedding belongs to, comes right behind the vocabulary.
    tokens, size = manifest.tokens, manifest.text.vocab_size
    return bool(tokens.eos) and all(0 <= token < size for token in tokens.eos) and 0 <= tokens.image <= size


def _embedding(manifest: Manifest) -> bool:
    table = manifest.embedding
    return (table.rows, table.columns) == (manifest.text.vocab_size, manifest.text.hidden_size)


def _graphs(manifest: Manifest) -> bool:
    stages = [stage for stages in manifest.graphs.values() for stage in stages.values()]
    tensors = [tensor for stage in stages for tensor in (*stage.inputs, *stage.outputs)]
    if any(len({each.name for each in side}) < len(side) for stage in stages for side in (stage.inputs, stage.outputs)):
        return False
    lengths = [dim for tensor in tensors for dim in tensor.shape if isinstance(dim, int)]
    # One per key or value of a layer; the columns may be more than the head size where attention needs it.
    decoders = [stage for stages in manifest.graphs.values() for name, stage in stages.items() if name != UPDATE_STAGE]
    beside = [tensor for stage in decoders for tensor in (*stage.inputs, *stage.outputs)]
    caches = {tensor.shape for tensor in beside if tensor.name.startswith(_PAST)}
    heads, rows = (1, manifest.text.kv_heads), ("context", manifest.profiles["context"].max)
    if not all(len(shape) == 4 and shape[:2] == heads and shape[2] in rows for shape in caches):
        return False
    return all(tensor.dtype in DTYPES for tensor in tensors) and all(1 <= dim <= LONGEST for dim in lengths)


_CHECKS: dict[str, Callable[[Manifest], bool]] = {
    "profiles": _profiles,
    "text": _text,
    "vision": _vision,
    "glimpse": _glimpse,
    "scorer": _scorer,
    "pruning": _pruning,
    "generation": lambda manifest: 1e-3 <= manifest.generation.repetition_penalty <= 1e3,
    "tokens": _tokens,
    "embedding": _embedding,
    "graphs": _graphs,
}
