"""The two layouts of a LLaVA-1.5 checkpoint: the authors' and llava-hf's; what each calls its fields and tensors.

Tensors have the authors' names and those of CLIP's own checkpoints here.
"""

from glimpse_export.errors import CheckpointError
from glimpse_export.model.fields import Config

_NAMED_TOWER = "mm_vision_tower"
_NESTED = ("text_config", "vision_config")
_CLIP_MODULES = ("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.")
_PROJECTOR = {"linear_1": "0", "linear_2": "2"}
# Where the tower's tensors lie within a whole model, by layout and version.
_TOWERS = ("vision_tower.vision_tower.", "vision_tower.")


def is_hf(base: Config, where: str) -> bool:
    """Whether a base's ``config.json`` is llava-hf's, whose weights hold the vision tower.

    Raises:
        CheckpointError: it is neither layout's.
    """
    if base.get(_NAMED_TOWER) is not None:
        return False
    if any(base.get(key) is not None for key in _NESTED):
        return True
    raise CheckpointError(
        f"{where} has neither {_NAMED_TOWER!r} nor 'text_config' and 'vision_config'; the checkpoint is incomplete or "
        "of another model"
    )


def named_tower(base: Config) -> str | None:
    """Returns the vision tower that an authors' base names, a hub id or folder; None where the base holds it."""
    name = base.get(_NAMED_TOWER)
    return name if isinstance(name, str) and name else None


def tensor_name(key: str, of_tower: bool) -> str | None:
    """Returns the name of a tensor, None for one that nothing is computed from.

    Args:
        key: its name in the file.
        of_tower: whether the file is the tower's own, a whole CLIP model or its vision half.
    """
    if key.endswith((".inv_freq", ".position_ids")):
        return None
    if of_tower:
        return _of_clip(key)
    inner = key.removeprefix("model.")
    for tower in _TOWERS:
        if inner.startswith(tower):
            return _of_clip(inner[len(tower) :])
    if inner.startswith("multi_modal_projector."):
        layer, _, part = inner.removeprefix("multi_modal_projector.").partition(".")
        return f"model.mm_projector.{_PROJECTOR.get(layer, layer)}.{part}"
    if inner.startswith("language_model."):
        inner = inner.removeprefix("language_model.")
        return inner if inner.startswith(("model.", "lm_head.")) else f"model.{inner}"
    return key


def _of_clip(key: str) -> str | None:
    """A tensor of CLIP's vision half; newer versions of transformers leave out the prefix."""
    name = f"vision_model.{key}" if key.startswith(_CLIP_MODULES) else key
    return name if name.startswith("vision_model.") and ".post_layernorm." not in name else None
