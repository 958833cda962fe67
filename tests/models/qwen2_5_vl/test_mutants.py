"""Plausible mistakes put into the product: the comparison with the reference must notice every one of them."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import conformance
import numpy as np
import pytest
from support.checkpoints import Case, make_case, write_model
from support.slow import few

from glimpse_export import ExportOptions, export
from glimpse_export.graphs.builder import GraphBuilder
from glimpse_models.qwen2_5_vl.light.windows import Windows
from glimpse_runtime.arrays import Array, BoolArray, FloatArray
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.pruning import rule as rules
from glimpse_runtime.pruning.rule import Rule
from glimpse_runtime.steps import score
from glimpse_runtime.steps.cache import KVCache
from glimpse_runtime.steps.pipeline import Pipeline
from glimpse_runtime.steps.rows import RowBatch, RowRunner
from glimpse_runtime.steps.score import Scorer

Patch = pytest.MonkeyPatch
TWO = ((84, 112), (56, 28))
MODELS: dict[str, dict[str, Any]] = {
    "scores": {
        "glimpse": {
            "reduce_layer": 2,
            "selected_layers": [2, 0],
            "le_layers": [2, 0, 1],
            "ori_attn_supervision": True,
            "selected_visual_layers": [2, 0],
        }
    },
    "windowed": {
        "vision": {"window_size": 84, "fullatt_block_indexes": [0]},
        "glimpse": {"attn_fuse_global": False, "use_attention_logits": False},
    },
}
# 20 tokens: 0.375 of them are 7.5, so that truncating, rounding and rounding up differ.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("scores", {"sizes": ((140, 112),)}),
    "image last": ("scores", {"sizes": ((84, 168),), "image_last": True}),
    "cap": ("scores", {"sizes": ((140, 112),), "changes": {"max_remain_ratio": 0.375, "reduce_threshold": 0.2}}),
    "minimum above the cap": (
        "scores",
        {"changes": {"max_remain_ratio": 0.1, "min_remain_num": 4, "reduce_threshold": 0.2}},
    ),
    "two images, cap": ("scores", {"sizes": TWO, "changes": {"max_remain_ratio": 0.5, "reduce_threshold": 0.2}}),
    "corners": ("scores", {"changes": {"max_remain_ratio": 0.2, "anchor_positions": ["tr", "bl"]}}),
    "windowed": ("windowed", {"sizes": ((140, 112),)}),
}


class World:
    """The models and cases, each made once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._cases: dict[str, Case] = {}
        self._bundles: dict[str, Bundle] = {}

    def case(self, name: str) -> tuple[Path, Case]:
        model, settings = CASES[name]
        folder = self._root / model
        if not folder.exists():
            write_model(folder, **MODELS[model])
        if name not in self._cases:
            self._cases[name] = make_case(folder, name.replace(" ", "-"), **settings)
        return folder, self._cases[name]

    def bundle(self, name: str) -> Bundle:
        folder, _ = self.case(name)
        if folder.name not in self._bundles:
            self._bundles[folder.name] = exported(folder, folder / "adapter", self._root / f"{folder.name}-bundle")
        return self._bundles[folder.name]

    def problems(self, name: str, bundle: Bundle) -> list[str]:
        folder, case = self.case(name)
        return conformance.check_case(folder, case.settings, case.arrays, bundle).problems


def exported(folder: Path, adapter: Path, out: Path) -> Bundle:
    options = ExportOptions(str(folder / "base"), str(adapter), tokenizer=False, trace=True, certify="off")
    return Bundle.open(export(options, out))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("mutants"))


@pytest.mark.parametrize("name", CASES)
def test_the_product_itself_has_no_problems(name: str, world: World) -> None:
    assert world.problems(name, world.bundle(name)) == []


# A bundle made with another adapter configuration.
CONFIG_MUTANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "vision taps one block late": ("plain", {"selected_visual_layers": [3, 1]}),
    "vision taps in ascending order": ("plain", {"selected_visual_layers": [0, 2]}),
    "glimpse vectors by layer number": ("plain", {"le_layers": [0, 1, 2]}),
    "selected layers in ascending order": ("plain", {"selected_layers": [0, 2]}),
    "log-softmax for scores": ("plain", {"use_attention_logits": False}),
    "scores for log-softmax": ("windowed", {"use_attention_logits": True}),
    "windowed scorer run on whole images": ("windowed", {"attn_fuse_global": True}),
    "scorer cut to windows": ("plain", {"attn_fuse_global": False}),
    "pruned one layer late": ("plain", {"reduce_layer": 3}),
}


@pytest.mark.parametrize(
    "name", few(CONFIG_MUTANTS, ["vision taps one block late", "log-softmax for scores", "pruned one layer late"])
)
def test_altered_configuration_is_noticed(name: str, world: World, tmp_path: Path) -> None:
    case, changes = CONFIG_MUTANTS[name]
    folder, _ = world.case(case)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = json.loads((folder / "adapter" / "config.json").read_text()) | changes
    (adapter / "config.json").write_text(json.dumps(config))
    (adapter / "new_modules_gp.pt").symlink_to(folder / "adapter" / "new_modules_gp.pt")
    assert world.problems(case, exported(folder, adapter, tmp_path / "bundle"))


def softmax(patch: Patch) -> None:
    original = GraphBuilder.op

    def op(self: GraphBuilder, kind: str, *inputs: Any, **attributes: Any) -> Any:
        return original(self, "Softmax" if kind == "LogSoftmax" else kind, *inputs, **attributes)

    patch.setattr(GraphBuilder, "op", op)


def unscaled_glimpse(patch: Patch) -> None:
    original = GraphBuilder.scalar

    def scalar(self: GraphBuilder, value: float) -> Any:
        return original(self, 1.0 if value < 1 else value)

    patch.setattr(GraphBuilder, "scalar", scalar)


@pytest.mark.parametrize(("case", "mutate"), [("windowed", softmax), ("plain", unscaled_glimpse)])
def test_mistake_in_a_graph_is_noticed(
    case: str, mutate: Callable[[Patch], None], world: World, tmp_path: Path, monkeypatch: Patch
) -> None:
    folder, _ = world.case(case)
    mutate(monkeypatch)
    bundle = exported(folder, folder / "adapter", tmp_path / "bundle")
    monkeypatch.undo()
    assert world.problems(case, bundle)


def cap_rounded_up(patch: Patch) -> None:
    patch.setattr(rules, "int", math.ceil, raising=False)


def cap_rounded(patch: Patch) -> None:
    patch.setattr(rules, "int", round, raising=False)


def minimum_before_cap(patch: Patch) -> None:
    original = rules.select

    def select(logits: FloatArray, rule: Rule, grids: list[Grid]) -> BoolArray:
        ratio = rule.max_keep_ratio
        keep = original(logits, dataclasses.replace(rule, max_keep_ratio=None), grids)
        if ratio is not None and keep.mean() > ratio:
            keep[np.argsort(-logits)[int(ratio * len(keep)) :]] = False
        return keep

    patch.setattr(rules, "select", select)


def cap_per_image(patch: Patch) -> None:
    original = rules.select

    def select(logits: FloatArray, rule: Rule, grids: list[Grid]) -> BoolArray:
        parts = zip(rules.per_image(logits, grids), grids, strict=True)
        return np.concatenate([original(part.reshape(-1), rule, [grid]) for part, grid in parts])

    patch.setattr(rules, "select", select)


def corners_mirrored(patch: Patch) -> None:
    corners = rules.ANCHORS
    patch.setattr(rules, "ANCHORS", corners | {"tr": corners["bl"], "bl": corners["tl"]})


def decode_position_is_the_cache_length(patch: Patch) -> None:
    original = Pipeline.prefill

    def prefill(self: Pipeline, *arguments: Any) -> Any:
        result = original(self, *arguments)
        self._next_position[:] = self._lower_cache.length
        return result

    patch.setattr(Pipeline, "prefill", prefill)


def kept_rows_numbered_anew(patch: Patch) -> None:
    original = RowRunner.__call__

    def run_rows(self: RowRunner, engine: Any, cache: KVCache, batch: RowBatch, interrupt: Any) -> dict[str, Any]:
        fresh = np.tile(np.arange(batch.positions.shape[1]), (3, 1))
        upper = batch.gate is None  # only the layers before the split take a gate
        return original(self, engine, cache, dataclasses.replace(batch, positions=fresh) if upper else batch, interrupt)

    patch.setattr(RowRunner, "__call__", run_rows)


def cache_cut_instead_of_compacted(patch: Patch) -> None:
    def compact(self: KVCache, hidden: Any, keep: Any) -> None:
        self._backend.compact([], hidden, keep)
        self.length = len(keep)

    patch.setattr(KVCache, "compact", compact)


def glimpse_rows_stay_in_the_cache(patch: Patch) -> None:
    original = KVCache.compact

    def compact(self: KVCache, hidden: Any, keep: Any) -> None:
        whole = self._backend.rows(hidden, 0, hidden.shape[1])
        original(self, np.concatenate([whole, whole[:, -1:]], axis=1), np.append(keep, self.length))
        self._backend.compact([], hidden, keep)

    patch.setattr(KVCache, "compact", compact)


def first_output_row_decides(patch: Patch) -> None:
    original = Scorer._score_image
    patch.setattr(Scorer, "_score_image", lambda self, *arguments: original(self, *arguments)[::-1])


def scorer_rows_and_columns_swapped(patch: Patch) -> None:
    original = score.token_rope

    def token_rope(grid: Grid, head_dim: int, theta: float) -> tuple[FloatArray, FloatArray]:
        cos, sin = original(grid, head_dim, theta)
        half = cos.shape[1] // 2
        return np.roll(cos, half, axis=1), np.roll(sin, half, axis=1)

    patch.setattr(score, "token_rope", token_rope)


def window_padding_takes_part(patch: Patch) -> None:
    original = Windows.inputs

    def inputs(windows: Windows) -> dict[str, Array]:
        right = original(windows)
        return right | {"window_keys": np.ones_like(right["window_keys"])}

    patch.setattr(Windows, "inputs", inputs)


RUNTIME_MUTANTS: list[tuple[str, Callable[[Patch], None]]] = [
    ("cap", cap_rounded_up),
    ("cap", cap_rounded),
    ("minimum above the cap", minimum_before_cap),
    ("two images, cap", cap_per_image),
    ("corners", corners_mirrored),
    ("plain", decode_position_is_the_cache_length),
    ("plain", kept_rows_numbered_anew),
    ("plain", cache_cut_instead_of_compacted),
    ("plain", glimpse_rows_stay_in_the_cache),
    ("plain", first_output_row_decides),
    ("plain", scorer_rows_and_columns_swapped),
    ("plain", window_padding_takes_part),
    ("windowed", window_padding_takes_part),
]


@pytest.mark.parametrize(("case", "mutate"), RUNTIME_MUTANTS)
def test_mistake_at_run_time_is_noticed(
    case: str, mutate: Callable[[Patch], None], world: World, monkeypatch: Patch
) -> None:
    bundle = world.bundle(case)
    mutate(monkeypatch)
    assert world.problems(case, bundle)
