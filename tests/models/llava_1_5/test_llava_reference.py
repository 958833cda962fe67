"""The certificate's reference of LLaVA-1.5 gives what the authors' code gave."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from llava_models import GOLDEN, TOWER  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from glimpse_export.certify.reference.base import Layer  # noqa: E402
from glimpse_export.model.family import ModelConfigs  # noqa: E402
from glimpse_models.llava_1_5.heavy.reference import LlavaReference  # noqa: E402

CASES = sorted(path.stem for path in (GOLDEN / "cases").glob("*.npz"))
CLOSE: Any = {"rtol": 1e-4, "atol": 1e-4}
Tensors = dict[str, Any]


def configs(layout: str) -> ModelConfigs:
    return ModelConfigs.read(GOLDEN / layout, GOLDEN / "adapter", GOLDEN / TOWER if layout == "base" else None)


def authors_weights() -> Tensors:
    found: Tensors = {}
    for file in (*(GOLDEN / "base").glob("pytorch_model-*.bin"), GOLDEN / TOWER / "pytorch_model.bin"):
        found |= torch.load(file, weights_only=True)
    return {name: tensor.float() for name, tensor in found.items()}


def hf_weights() -> Tensors:
    found: Tensors = {}
    for name, tensor in load_file(GOLDEN / "base_llava_hf" / "model.safetensors").items():
        for theirs, ours in (
            ("language_model.", ""),
            ("vision_tower.", ""),
            ("multi_modal_projector.linear_1", "model.mm_projector.0"),
            ("multi_modal_projector.linear_2", "model.mm_projector.2"),
        ):
            name = name.replace(theirs, ours, 1) if name.startswith(theirs) else name
        found[name] = tensor.float()
    return found


@pytest.fixture(scope="module", params=["base", "base_llava_hf"])
def side(request: pytest.FixtureRequest) -> tuple[LlavaReference, Tensors]:
    weights = authors_weights() if request.param == "base" else hf_weights()
    return LlavaReference(configs(request.param)), weights


def pictures(case: str) -> Image.Image:
    (name,) = json.loads((GOLDEN / "cases" / f"{case}.json").read_text())["images"]
    return Image.open(GOLDEN / "images" / Path(name["file"] if isinstance(name, dict) else name).name).convert("RGB")


@pytest.mark.parametrize("case", CASES)
def test_images_and_decoder_are_the_authors(case: str, side: tuple[LlavaReference, Tensors]) -> None:
    reference, weights = side
    golden = np.load(GOLDEN / "cases" / f"{case}.npz")
    states: dict[int, Any] = {}
    embeds: list[Any] = []

    def embed(_: int, layer: Layer, patches: Any) -> Any:
        states[-1] = layer(patches, weights)
        return states[-1]

    def block(index: int, layer: Layer, rows: Any) -> Any:
        states[index] = layer(rows, weights)
        return states[index]

    def merge(index: int, layer: Layer, rows: Any) -> Any:
        assert rows is states[index]
        embeds.append(layer(rows, weights))
        return embeds[0]

    patches, grid = reference.processed(pictures(case), None)
    squares = golden["pixel_values"].reshape(3, grid[0], 14, grid[1], 14).transpose(1, 3, 0, 2, 4)
    assert np.array_equal(patches, squares.reshape(grid[0] * grid[1], -1))
    reference.see(patches, [grid], embed, block, merge)
    assert max(states) == 3, "the last block is not needed"
    np.testing.assert_allclose(embeds[0], golden["image_embeds"], **CLOSE)
    if "clip_embeddings" in golden:
        np.testing.assert_allclose(states[-1], golden["clip_embeddings"], **CLOSE)
        tap = reference.arrange([grid]).tap
        taps = np.stack([tap(states[index].numpy()) for index in reference.taps])
        np.testing.assert_allclose(taps, golden["visual_features"], **CLOSE)
    ids = golden["input_ids"][0]
    positions = reference.positions(ids, [grid])
    assert np.array_equal(positions, golden["position_ids"])
    if "hidden_reduce" not in golden:
        return
    is_image = torch.from_numpy(ids < 0)
    rows = weights["model.embed_tokens.weight"][torch.from_numpy(ids).clamp(0)]
    rows[is_image] = embeds[0]
    mask = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    layers = range(len(golden["glimpse_hidden_layers"]))
    found = reference.read(rows, torch.from_numpy(positions), mask, layers, lambda _, layer, x: layer(x, weights))
    np.testing.assert_allclose(found, golden["hidden_reduce"], **CLOSE)


def test_several_images_are_seen_side_by_side(side: tuple[LlavaReference, Tensors]) -> None:
    reference, weights = side
    patches, grid = zip(*(reference.processed(pictures(case), None) for case in CASES[:2]), strict=True)
    found: list[Any] = []

    def see(pixels: Any, grids: Any) -> Any:
        def run(_: int, layer: Layer, rows: Any) -> Any:
            return layer(rows, weights)

        def merge(_: int, layer: Layer, rows: Any) -> Any:
            found.append(layer(rows, weights))
            return found[-1]

        reference.see(pixels, grids, run, run, merge)
        return found[-1]

    apart = np.concatenate([see(patches[index], grid[index : index + 1]) for index in range(2)])
    np.testing.assert_allclose(see(np.concatenate(patches), grid), apart, rtol=1e-5, atol=1e-5)


def test_every_tensor_of_the_names_is_in_the_checkpoint(side: tuple[LlavaReference, Tensors]) -> None:
    reference, weights = side
    assert reference.names <= set(weights)
    assert {name for name in weights if ".layers.4." in name and name.startswith("vision")}.isdisjoint(reference.names)
    assert "vision_model.post_layernorm.weight" not in reference.names
    assert reference.layers == 6


@pytest.mark.parametrize(
    ("selected", "read", "taps", "blocks"),
    [(-2, 3, [0, -1], (-1, 4)), (3, 2, [3, 1], (2, 0)), (-1, 4, [2], (1,)), (5, 4, [-6], (-1,))],
)
def test_hidden_states_are_counted_as_the_original_does(
    selected: int, read: int, taps: list[int], blocks: tuple[int, ...]
) -> None:
    """``hidden_states[0]`` of transformers enters the first block, so that number 3 leaves block 2."""
    given = configs("base")
    base = {**given.base, "mm_vision_select_layer": selected}
    changed = dataclasses.replace(given, base=base, adapter={**given.adapter, "selected_visual_layers": taps})
    reference, weights = LlavaReference(changed), authors_weights()
    assert reference.taps == blocks
    merged: list[int] = []

    def run(_: int, layer: Layer, rows: Any) -> Any:
        return layer(rows, weights)

    def merge(index: int, layer: Layer, rows: Any) -> Any:
        merged.append(index)
        return layer(rows, weights)

    patches, grid = reference.processed(pictures(CASES[0]), None)
    reference.see(patches, [grid], run, run, merge)
    assert merged == [read]


@pytest.mark.parametrize("nested", ["vision_config", "vision_config_dict", None])
def test_a_tower_s_configuration_may_be_the_whole_model_s_or_its_own(nested: str | None) -> None:
    given = configs("base")
    vision = {
        key: value for key, value in given.tower["vision_config"].items() if key not in ("hidden_act", "num_channels")
    }
    tower = vision if nested is None else {"model_type": "clip", nested: vision}
    reference = LlavaReference(dataclasses.replace(given, tower=tower))
    assert reference.names == LlavaReference(given).names


def test_images_are_padded_only_where_the_adapter_says_so() -> None:
    given = configs("base")
    adapter = {key: value for key, value in given.adapter.items() if key != "image_aspect_ratio"}
    wide = Image.new("RGB", (200, 80), (255, 0, 0))
    cropped, grid = LlavaReference(dataclasses.replace(given, adapter=adapter)).processed(wide, None)
    assert grid == (8, 8)
    assert len(np.unique(cropped)) == 3, "one level of each channel: nothing but the picture"
    assert len(np.unique(LlavaReference(given).processed(wide, None)[0])) > 3
