"""Reads manifests of format version 3, which knew one family and had its fields among the others."""

from typing import Any

_FROM_VISION = ("window_size", "head_dim", "rope_theta")


def upgrade_3(data: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a version 3 manifest as version 4 arranges them; what is not there stays missing."""
    text, vision = dict(_object(data, "text")), dict(_object(data, "vision"))
    if "mrope_section" in text:
        text["rope_sections"] = text.pop("mrope_section")
    family = {key: vision.pop(key) for key in _FROM_VISION if key in vision}
    vision.pop("temporal_patch_size", None)  # stands among the image rules too
    rest = {key: value for key, value in data.items() if key != "images"}
    if "images" in data:
        family["images"] = data["images"]
    return {**rest, "format_version": 4, "text": text, "vision": vision, "family": family}


def _object(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}
