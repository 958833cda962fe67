"""Pixel rules in every form of the files that say them, as transformers reads them."""

from pathlib import Path
from typing import Any

import pytest
from support.files import edit_json
from written_forms import form, options, put, write

from glimpse_export import CheckpointError, plan

IMAGES = [
    {},
    {"min_pixels": 784, "max_pixels": 78400},
    {"size": {"shortest_edge": 784, "longest_edge": 78400}},
    {"size": {"shortest_edge": 784, "longest_edge": 78400}, "max_pixels": 156800},
    {"size": None},
    {"min_pixels": 784, "size": {"longest_edge": 78400}},
]


@pytest.mark.parametrize("rules", IMAGES)
@pytest.mark.parametrize("is_nested", [False, True])
def test_pixels_are_transformers(tmp_path: Path, rules: dict[str, Any], is_nested: bool) -> None:
    processor = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    base = write(tmp_path / "base", "transformers-5.24")
    (base / "processor_config.json").unlink()
    record = {"image_processor_type": "Qwen2VLImageProcessor", **rules}
    if is_nested:
        put(base / "processor_config.json", {"image_processor": record, "processor_class": "Qwen2_5_VLProcessor"})
    else:
        put(base / "preprocessor_config.json", record)
    theirs = processor.Qwen2VLImageProcessorPil.from_pretrained(base)
    found = plan(options(base)).images
    # The plan's profiles may bound the images further, but not below these.
    assert (found.min_pixels, found.max_pixels) == (theirs.size["shortest_edge"], theirs.size["longest_edge"])


def test_a_size_of_half(tmp_path: Path) -> None:
    """Transformers refuses it too."""
    base = write(tmp_path / "base", "transformers-4.52")
    edit_json(base / "preprocessor_config.json", min_pixels=..., max_pixels=..., size={"longest_edge": 78400})
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json size has no 'shortest_edge'"):
        plan(options(base))


def test_two_files_that_say_other_pixels(tmp_path: Path) -> None:
    base = form(tmp_path / "base", "ms-swift")
    edit_json(base / "preprocessor_config.json", max_pixels=100352)
    with pytest.raises(
        CheckpointError, match=r"processor_config\.json and .*preprocessor_config\.json prepare images diff"
    ):
        plan(options(base))


def test_no_image_rules_at_all(tmp_path: Path) -> None:
    base = write(tmp_path / "base", "transformers-5.24")
    put(base / "processor_config.json", {"processor_class": "Qwen2_5_VLProcessor"})
    with pytest.raises(CheckpointError, match=r"no processor_config\.json with an image_processor"):
        plan(options(base))
