"""Reads ``preprocessor_config.json`` into the image rules."""

from glimpse_export.errors import CheckpointError, UnsupportedError
from glimpse_export.model.fields import Config, Fields
from glimpse_export.model.levels import read_levels
from glimpse_export.model.refusals import missing_images, refuse_images
from glimpse_models.qwen2_5_vl.heavy.architecture import QwenVision
from glimpse_models.qwen2_5_vl.light.record import ImageRules

_BICUBIC = 3
_STEPS = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")


def read_image_rules(config: Config, vision: QwenVision, where: str) -> ImageRules:
    """Returns the rules; what the file leaves out takes the defaults of Qwen2VLImageProcessor.

    Args:
        config: the file's content.
        vision: the vision encoder it prepares images for.
        where: what to call the file in errors.

    Raises:
        CheckpointError: values that make no sense or do not fit the vision encoder.
        UnsupportedError: a step is switched off, or another resampling filter is asked for.
    """
    if not config:
        raise CheckpointError(missing_images(where))
    fields = Fields(config, where)
    for step in _STEPS:
        if not fields.get(step, bool, True):
            raise UnsupportedError(f"{where}: {step} = false is not supported")
    refuse_images(config, where)
    if config.get("resample", _BICUBIC) != _BICUBIC:
        raise UnsupportedError(f"{where}: resample {config['resample']!r} is not supported, only bicubic (3)")
    least, most = _limits(fields)
    rules = ImageRules(
        patch_size=fields.positive("patch_size", 14),
        temporal_patch_size=fields.positive("temporal_patch_size", 2),
        merge_size=fields.positive("merge_size", 2),
        min_pixels=least,
        max_pixels=most,
        **read_levels(fields, vision.channels)._asdict(),
    )
    if rules.min_pixels > rules.max_pixels:
        raise CheckpointError(f"{where}: min_pixels {rules.min_pixels} and max_pixels {rules.max_pixels} make no range")
    for name in ("patch_size", "temporal_patch_size", "merge_size"):
        if getattr(rules, name) != getattr(vision, name):
            raise CheckpointError(
                f"{where}: {name} {getattr(rules, name)} is not the vision encoder's {getattr(vision, name)}"
            )
    return rules


def _limits(fields: Fields) -> tuple[int, int]:
    """Reads the least and the most pixels from fields of their own or, as newer files have them, from ``size``.

    A ``size`` must hold both, where no field of its own replaces one.
    """
    size = Fields(fields.nested("size"), f"{fields.where} size")
    defaults = (56 * 56, 28 * 28 * 1280) if fields.get("size", dict, None) is None else (..., ...)
    limits = []
    for key, edge, default in zip(
        ("min_pixels", "max_pixels"), ("shortest_edge", "longest_edge"), defaults, strict=True
    ):
        own: int | None = fields.at_least(key, 1, None)
        limits.append(size.at_least(edge, 1, default) if own is None else own)
    return limits[0], limits[1]
