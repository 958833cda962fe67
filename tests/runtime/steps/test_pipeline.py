"""What a session does with its graphs: warm-up, prefill in runs of rows, and values that are not finite."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from glimpse_runtime import BackendError, InputError, Pruning, Session, load
from glimpse_runtime.backends import open_backend
from glimpse_runtime.backends.ort import OrtEngine
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.manifest import Profile
from glimpse_runtime.bundle.memory import ROWS_AT_ONCE
from glimpse_runtime.steps.cache import KVCache
from glimpse_runtime.steps.pipeline import Pipeline
from glimpse_runtime.steps.rows import runs_of_rows

QUESTION = "What colour is the circle?"


@pytest.mark.parametrize("warmup", ["smallest", "largest"])
def test_warm_up_runs_every_graph_and_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, photo: np.ndarray, warmup: str
) -> None:
    ran: list[str] = []
    original = OrtEngine._run

    def spy(self: OrtEngine, *arguments: object, **options: object) -> None:
        ran.append(",".join(spec.name for spec in self._outputs))
        original(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(OrtEngine, "_run", spy)
    traced: list[str] = []
    with load(warmup=warmup, trace=lambda name, value: traced.append(name)) as warm:
        assert len(set(ran)) == 4
        assert traced == []
        assert warm._pipeline is not None
        assert warm._pipeline.room == warm.bundle.manifest.profiles["context"].max
        text = warm.ask(photo, QUESTION).text
        assert "keep_mask" in traced
    ran.clear()
    with load(warmup="off") as cold:
        assert ran == []
        assert cold.ask(photo, QUESTION).text == text


def test_the_largest_warm_up_takes_the_memory_of_the_largest_request() -> None:
    """In a process of its own: after it, the largest image and prompt need next to nothing more."""
    code = (
        "import numpy as np\n"
        "from glimpse_runtime import load\n"
        "with load(warmup='largest', scene_cache_bytes=0) as vlm:\n"
        "    before = vlm.ask([], 'a').stats.peak_bytes\n"
        "    image = np.zeros((672, 672, 3), np.uint8)\n"
        "    print(vlm.ask(image, 'a ' * 1500, max_new_tokens=2).stats.peak_bytes / before)\n"
    )
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert float(done.stdout) < 1.06


@pytest.mark.parametrize(("context", "visual"), [(2, 1), (3, 1), (4, 3), (16, 15)])
@pytest.mark.parametrize("warmup", ["smallest", "largest"])
def test_warm_up_fits_any_context(golden_bundle: Path, context: int, visual: int, warmup: str) -> None:
    bundle = Bundle.open(golden_bundle)
    limits = {"visual_tokens": Profile(1, 1, visual), "context": Profile(1, 1, context)}
    manifest = dataclasses.replace(bundle.manifest, profiles={**bundle.manifest.profiles, **limits})
    bundle = dataclasses.replace(bundle, manifest=manifest)
    longest: list[int] = []
    with Session(bundle, Pipeline(bundle, open_backend("cpu"))) as vlm:
        pipeline = vlm._pipeline
        assert pipeline is not None
        original = pipeline._rows._step_inputs

        def spy(positions: np.ndarray, cache: KVCache) -> dict[str, np.ndarray]:
            longest.append(cache.length + positions.shape[1])
            return original(positions, cache)

        pipeline._rows._step_inputs = spy  # type: ignore[method-assign]
        pipeline.warm_up(largest=warmup == "largest")
        assert max(longest, default=0) <= context
        assert pipeline.room == context
        if context > 2:
            assert vlm.ask_ids([], [1], max_new_tokens=1, eos=[]).text == ""


def test_an_unknown_warm_up_is_refused() -> None:
    with pytest.raises(InputError, match="warmup must be one of"):
        load(warmup="yes")


@pytest.mark.parametrize("rows", [5, 64])
def test_prefill_in_short_runs_changes_nothing(
    golden_bundle: Path, golden: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    def answer() -> dict[str, np.ndarray]:
        seen: dict[str, np.ndarray] = {}
        case = json.loads((golden / "cases" / "A06_two_images.json").read_text())
        images = [golden / "images" / Path(image["file"]).name for image in case["images"]]
        with load(golden_bundle, trace=lambda name, value: seen.setdefault(name, value.copy())) as vlm:
            ids = np.load(golden / "cases" / "A06_two_images.npz")["input_ids"].ravel()
            seen["tokens"] = np.array(vlm.ask_ids(images, ids, max_new_tokens=6).token_ids)
        return seen

    whole = answer()
    monkeypatch.setattr("glimpse_runtime.bundle.memory.ROWS_AT_ONCE", rows)
    parts = answer()
    assert whole.keys() == parts.keys()
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], atol=2e-5, err_msg=name)


def test_runs_of_rows() -> None:
    assert runs_of_rows(3, 1) == [(0, 3)]
    assert runs_of_rows(ROWS_AT_ONCE, 1) == [(0, ROWS_AT_ONCE)]
    assert runs_of_rows(2 * ROWS_AT_ONCE + 1, 1) == [(0, 341), (341, 683), (683, 1025)]
    assert runs_of_rows(ROWS_AT_ONCE + 1, 400) == [(0, 113), (113, 513)]
    assert runs_of_rows(600, 600) == [(0, 600)]


@pytest.mark.parametrize(
    ("output", "stage"),
    [("image_embeds", "vision"), ("glimpse_attention", "lower"), ("token_logits", "score"), ("logits", "upper")],
)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_values_that_are_not_finite_never_become_an_answer(
    monkeypatch: pytest.MonkeyPatch, photo: np.ndarray, output: str, stage: str, value: float
) -> None:
    run = OrtEngine.run

    def broken(self: OrtEngine, *arguments: object) -> dict[str, np.ndarray]:
        out = run(self, *arguments)  # type: ignore[arg-type]
        if output in out:
            out[output][0] = value
        return out

    with load(warmup="off") as vlm:
        monkeypatch.setattr(OrtEngine, "run", broken)
        with pytest.raises(BackendError, match=f"stage {stage} gave values that are not finite"):
            vlm.ask(photo, QUESTION, pruning=Pruning(min_keep=5))
    with pytest.raises(BackendError, match="not finite"):
        load(warmup="smallest")
