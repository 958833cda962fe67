"""Reads ``preprocessor_config.json``, and from the adapter whether images are padded, into the image rules."""

from glimpse_export.errors import CheckpointError, UnsupportedError
from glimpse_export.model.family import ModelConfigs
from glimpse_export.model.fields import Config, Fields
from glimpse_export.model.levels import read_levels
from glimpse_export.model.refusals import missing_images, refuse_images
from glimpse_models.llava_1_5.heavy.architecture import LlavaVision
from glimpse_models.llava_1_5.light.record import ImageRules

_BICUBIC = 3
_STEPS = ("do_resize", "do_rescale", "do_normalize", "do_center_crop")
_DEFAULT_SIZE = 224


def read_image_rules(configs: ModelConfigs, vision: LlavaVision) -> ImageRules:
    """Returns the rules; what the file leaves out takes the defaults of CLIPImageProcessor.

    Args:
        configs: the model's configuration files.
        vision: the vision tower.

    Raises:
        CheckpointError: values that make no sense or do not fit the vision tower.
        UnsupportedError: a step is switched off, or another resampling filter or way to pad is asked for.
    """
    config, where = configs.images, configs.name("images")
    if not config:
        raise CheckpointError(missing_images(where))
    fields = Fields(config, where)
    for step in _STEPS:
        if not fields.get(step, bool, True):
            raise UnsupportedError(f"{where}: {step} = false is not supported")
    refuse_images({key: value for key, value in config.items() if key not in _STEPS}, where)
    if config.get("resample", _BICUBIC) != _BICUBIC:
        raise UnsupportedError(f"{where}: resample {config['resample']!r} is not supported, only bicubic (3)")
    crop = _crop_size(fields)
    if crop != (vision.image_size, vision.image_size):
        raise CheckpointError(f"{where}: crop_size {crop} is not the vision tower's image_size {vision.image_size}")
    resize_to = _resize_to(fields)
    if min(resize_to) < vision.image_size:
        raise UnsupportedError(f"{where}: size {resize_to} smaller than the crop_size {crop[0]} is not supported")
    rules = ImageRules(
        patch_size=vision.patch_size,
        image_size=vision.image_size,
        resize_to=resize_to,
        pad=_pads(configs.adapter, configs.name("adapter")),
        **read_levels(fields, vision.channels)._asdict(),
    )
    if rules.pad and not all(0 <= level <= 1 for level in rules.mean):
        raise fields.wrong("image_mean", "in 0..1, since images are padded with its colour")
    return rules


def _pads(adapter: Config, where: str) -> bool:
    """The adapter's field decides, as in the reference; without one images are cropped."""
    ratio = adapter.get("image_aspect_ratio")
    if isinstance(ratio, str) and ratio.startswith("anyres"):
        raise UnsupportedError(f"{where}: image_aspect_ratio {ratio!r} is not supported")
    return bool(ratio == "pad")


def _crop_size(fields: Fields) -> tuple[int, int]:
    """(height, width); old files give one number."""
    size = fields.get("crop_size", object, _DEFAULT_SIZE)
    if isinstance(size, dict):
        inner = Fields(size, f"{fields.where} crop_size")
        return inner.positive("height"), inner.positive("width")
    side = fields.positive("crop_size", _DEFAULT_SIZE)
    return side, side


def _resize_to(fields: Fields) -> tuple[int, ...]:
    """(height, width), or the length of the shorter side; old files give that as a number."""
    size = fields.get("size", object, _DEFAULT_SIZE)
    if not isinstance(size, dict):
        return (fields.positive("size", _DEFAULT_SIZE),)
    inner = Fields(size, f"{fields.where} size")
    if "shortest_edge" in size:
        inner.refuse("longest_edge" in size, "a longest_edge")
        return (inner.positive("shortest_edge"),)
    return inner.positive("height"), inner.positive("width")
