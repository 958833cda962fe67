"""The family's record of a bundle: whatever makes no sense is refused before a picture is looked at."""

from types import SimpleNamespace
from typing import Any

import pytest

from glimpse_models.llava_1_5.light.family import read
from glimpse_runtime.errors import BundleFormatError

GOOD = {
    "patch_size": 14,
    "image_size": 336,
    "resize_to": [336],
    "pad": True,
    "mean": [0.48, 0.46, 0.41],
    "std": [0.27, 0.26, 0.28],
    "rescale_factor": 1 / 255,
}


def read_with(**changes: Any) -> object:
    manifest = SimpleNamespace(
        family={"images": {**GOOD, **changes}},
        text=SimpleNamespace(rope_sections=(64,)),
        vision=SimpleNamespace(merge_size=1, patch_size=14),
    )
    return read(manifest, "manifest.json")  # type: ignore[arg-type]


def test_the_good_record_is_read() -> None:
    assert read_with() is not None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("patch_size", 0),
        ("patch_size", 16),
        ("image_size", 13),
        ("image_size", 10**6),
        ("resize_to", []),
        ("resize_to", [335]),
        ("resize_to", [336, 336, 336]),
        ("mean", [0.5]),
        ("mean", [1.5, 0.5, 0.5]),
        ("std", [0.2, 0.0, 0.2]),
        ("std", [0.2, 1e-30, 0.2]),
        ("std", [0.2, 1e30, 0.2]),
        ("std", [-0.2, 0.2, 0.2]),
        ("rescale_factor", 0.0),
        ("rescale_factor", 1e30),
    ],
)
def test_what_makes_no_sense_is_refused(key: str, value: Any) -> None:
    with pytest.raises(BundleFormatError, match=r"manifest\.json: the values of family\.images make no sense"):
        read_with(**{key: value})


def test_a_mean_outside_the_colours_is_fine_where_nothing_is_padded() -> None:
    assert read_with(pad=False, mean=[-1.0, 0.5, 0.5]) is not None
