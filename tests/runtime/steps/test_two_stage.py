"""Pruning before layer 0, and before it and at the split, against an independent implementation of the decoder."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import conformance
import numpy as np
import pytest
from PIL import Image
from reference import Reference, Request, margin, patches
from support.bundles import options
from support.checkpoints import IDS_THAT_END, IMAGE_RULES, SAFE, Case, make_case, write_model

from glimpse_export import export
from glimpse_runtime import PruneReport, Pruning, PruningError, Session
from glimpse_runtime.bundle.bundle import Bundle

TWO = ((84, 112), (140, 56))
STEPS = 6
MODELS: dict[str, dict[str, Any]] = {
    "whole images": {"glimpse": {"reduce_layer": 2, "selected_layers": [2, 0], "le_length": 2}},
    "windows, log-softmax": {
        "vision": {"window_size": 84, "fullatt_block_indexes": [0]},
        "glimpse": {"attn_fuse_global": False, "use_attention_logits": False},
    },
    "no glimpse token": {"glimpse": {"le_layers": [], "le_length": 0}},
    "last layer": {"glimpse": {"reduce_layer": 3, "selected_layers": [2]}},
}


@dataclass
class World:
    """One model: its files, a session, what that traced, and cases."""

    folder: Path
    session: Session
    reference: Reference
    cases: dict[str, Case]
    trace: dict[str, list[np.ndarray]]

    def pictures(self, case: Case) -> list[np.ndarray]:
        return [np.array(Image.open(self.folder / image["file"])) for image in case.settings["images"]]

    def ask(self, case: Case, pruning: Pruning) -> tuple[PruneReport, list[int]]:
        self.trace.clear()
        ids = case.arrays["input_ids"][0]
        answer = self.session.ask_ids(self.pictures(case), ids, pruning=pruning, max_new_tokens=STEPS, eos=IDS_THAT_END)
        assert answer.text == ""
        return answer.pruning, answer.token_ids

    def expected(self, case: Case, entered: np.ndarray, **settings: Any) -> dict[str, np.ndarray]:
        pictures = self.pictures(case)
        pixels = patches(pictures, IMAGE_RULES["image_mean"], IMAGE_RULES["image_std"])
        grids = [(picture.shape[0] // 28, picture.shape[1] // 28) for picture in pictures]
        ids = case.arrays["input_ids"][0].tolist()
        request = Request(ids, pixels, grids, steps=STEPS, eos=IDS_THAT_END, entered=entered, **settings)
        return self.reference.run(request)

    def logits(self) -> np.ndarray:
        return np.concatenate(self.trace["logits_step"])


CASES = [(name, "ort") for name in MODELS] + [("whole images", "opset24"), ("windows, log-softmax", "plain")]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    model, dialect = request.param
    folder = write_model(tmp_path_factory.mktemp("two") / "model", **MODELS[model])
    asked = options(folder, dialects=(dialect,), trace=True, max_context=128)
    bundle = Bundle.open(export(asked, folder.parent / "bundle"))
    cases = {
        "one": make_case(folder, "one", ((140, 112),)),
        "two": make_case(folder, "two", TWO),
        "last": make_case(folder, "last", ((140, 112),), image_last=True),
    }
    trace: dict[str, list[np.ndarray]] = defaultdict(list)

    def note(name: str, value: np.ndarray) -> None:
        trace[name].append(np.array(value))

    with conformance.session_for(folder, cases["one"].settings, bundle, note) as session:
        yield World(folder, session, Reference(folder), cases, trace)


def flat(masks: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.concatenate([mask.reshape(-1) for mask in masks])


@pytest.mark.parametrize("name", ["one", "two", "last"])
@pytest.mark.parametrize("cap", [None, 0.2])
def test_two_stages_equal_the_reference(world: World, name: str, cap: float | None) -> None:
    case, compared = world.cases[name], 0
    changes = {"reduce_threshold": 0.4, "max_remain_ratio": cap, "min_remain_num": 2}
    for seed in range(40):
        request = Pruning(
            pre="random",
            pre_keep=0.6,
            seed=seed,
            threshold=0.4,
            max_keep_ratio=cap if cap is not None else 1.0,
            min_keep=2,
        )
        report, tokens = world.ask(case, request)
        entered = flat(report.pre_masks)
        expected = world.expected(case, entered, changes=changes)
        if margin(expected, {**world.reference.glimpse, **changes}) < SAFE:
            continue
        assert entered.sum() == report.pre_kept == int(0.6 * len(entered))
        assert np.array_equal(flat(report.keep_masks), expected["keep_mask"])
        assert report.kept == expected["keep_mask"].sum()
        assert not (flat(report.keep_masks) & ~entered).any()
        assert np.allclose(world.trace["mask_logits"][0], expected["mask_logits"], atol=2e-3)
        assert np.array_equal(tokens, expected["generated_ids"])
        assert np.allclose(world.logits(), expected["logits_steps"], atol=2e-3)
        places = np.array(world.trace["decode_position"]).reshape(-1, 3)
        assert np.array_equal(places, expected["decode_position_ids"].reshape(-1, 3))
        compared += 1
        if compared == 2:
            return
    pytest.fail("no seed gave a case without a close call")


@pytest.mark.parametrize("name", ["one", "two", "last"])
@pytest.mark.parametrize("method", ["dart", "divprune", "cdpruner", "uniform", "random"])
def test_pruning_before_layer_0_equals_the_reference(world: World, name: str, method: str) -> None:
    case = world.cases[name]
    report, tokens = world.ask(case, Pruning(method=method, max_keep_ratio=0.4, min_keep=0))
    entered = flat(report.keep_masks)
    assert report.kept == entered.sum() == int(0.4 * len(entered))
    assert report.method == method
    assert (report.pre, report.pre_kept, report.pre_masks) == (None, None, ())
    everything = {"reduce_threshold": 0.5, "max_remain_ratio": None, "min_remain_num": 0}
    expected = world.expected(case, entered, keep_mask=entered, changes=everything)
    assert np.allclose(world.logits()[0], expected["logits_first"], atol=2e-3)
    if margin(expected, everything) > SAFE:
        assert np.array_equal(tokens, expected["generated_ids"])
        assert np.allclose(world.logits(), expected["logits_steps"], atol=2e-3)
    assert np.array_equal(world.trace["position_ids"][0], expected["position_ids"][:, 0][:, rows_of(case, entered)])


def rows_of(case: Case, entered: np.ndarray) -> np.ndarray:
    is_image = case.arrays["input_ids"][0] == 500
    rows = ~is_image
    rows[is_image] = entered
    return rows


@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("method", ["fastv", "glimpse-attention"])
@pytest.mark.parametrize("pre", [None, "uniform"])
def test_attention_methods_keep_what_the_row_attends_to(world: World, name: str, method: str, pre: str | None) -> None:
    case = world.cases[name]
    request = Pruning(method=method, max_keep_ratio=0.3, pre=pre, pre_keep=0.7 if pre else None)
    report, _ = world.ask(case, request)
    entered = flat(report.pre_masks) if pre else np.ones(report.total, bool)
    # With a keep mask the reference runs no glimpse rows, so that its last row is the prompt's.
    mask = None if method == "glimpse-attention" else np.ones(report.total, bool)
    world.expected(case, entered, keep_mask=mask)
    shares = world.reference.last_rows.softmax(-1).mean((0, 1))  # a softmax of a log-softmax changes nothing
    ids = case.arrays["input_ids"][0][rows_of(case, entered)]
    scores = np.zeros(report.total)
    scores[entered] = shares[: len(ids)].numpy()[ids == 500]
    assert np.allclose(flat(report.scores), scores, atol=1e-5)
    best = np.sort(scores)[::-1]
    count = int(0.3 * report.total)
    assert report.kept == count
    if best[count - 1] - best[count] > 1e-5:
        assert set(np.flatnonzero(flat(report.keep_masks))) == set(np.argsort(-scores)[:count])


def test_what_a_first_stage_keeps_all_of_changes_nothing(world: World) -> None:
    case = world.cases["two"]
    plain, plain_tokens = world.ask(case, Pruning())
    expected = world.logits()
    whole, whole_tokens = world.ask(case, Pruning(pre="divprune", pre_keep=1.0))
    assert plain_tokens == whole_tokens
    assert np.array_equal(expected, world.logits())
    assert whole.pre_kept == whole.total
    assert np.array_equal(flat(plain.keep_masks), flat(whole.keep_masks))


def test_minimum_and_cap_count_all_visual_tokens(world: World) -> None:
    case, total = world.cases["two"], 22
    report, _ = world.ask(case, Pruning(pre="uniform", pre_keep=0.1, min_keep=9, threshold=1.0))
    assert (report.total, report.pre_kept, report.kept) == (total, 9, 9)
    report, _ = world.ask(case, Pruning(pre="uniform", pre_keep=0.5, threshold=0.0, max_keep_ratio=0.25))
    assert (report.pre_kept, report.kept) == (11, 5)
    report, _ = world.ask(case, Pruning(pre="uniform", pre_keep=0.01, min_keep=0, threshold=0.0, max_keep_ratio=1.0))
    assert (report.pre_kept, report.kept) == (1, 1)
    report, _ = world.ask(case, Pruning(method="divprune", max_keep_ratio=0.1, min_keep=7))
    assert report.kept == 7
    report, _ = world.ask(case, Pruning(method="fastv", max_keep_ratio=0.9, pre="uniform", pre_keep=0.5))
    assert (report.pre_kept, report.kept) == (11, 11)


def test_anchors_survive_both_stages(world: World) -> None:
    case = world.cases["one"]
    corners = ("tl", "tr", "bl", "br")
    for request in (
        Pruning(pre="dart", pre_keep=0.3, anchors=corners, threshold=1.0, min_keep=0),
        Pruning(method="dart", max_keep_ratio=0.3, anchors=corners, min_keep=0),
        Pruning(method="fastv", max_keep_ratio=0.3, anchors=corners, min_keep=0),
    ):
        report, _ = world.ask(case, request)
        (mask,) = report.keep_masks
        assert mask[[0, 0, -1, -1], [0, -1, 0, -1]].all()
    with pytest.raises(PruningError, match="anchors work with one image"):
        world.ask(world.cases["two"], Pruning(method="dart", max_keep_ratio=0.3, anchors=("tl",)))


def test_an_image_may_lose_all_its_tokens(world: World) -> None:
    case = world.cases["two"]
    for seed in range(100):
        report, tokens = world.ask(case, Pruning(pre="random", pre_keep=0.1, seed=seed, threshold=0.3, min_keep=1))
        if 0 in [mask.sum() for mask in report.pre_masks]:
            break
    else:
        pytest.fail("no seed leaves an image without tokens")
    changes = {"reduce_threshold": 0.3, "max_remain_ratio": None, "min_remain_num": 1}
    expected = world.expected(case, flat(report.pre_masks), changes=changes)
    assert np.array_equal(flat(report.keep_masks), expected["keep_mask"])
    assert np.allclose(world.logits()[0], expected["logits_first"], atol=2e-3)
    assert tokens
