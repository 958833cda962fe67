# ruff: noqa: E402
"""The accuracy benchmark asks as a user does, counts every cost, and gives no way anything for free."""

import json
import runpy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.places import ROOT

for package in ("onnxruntime", "skimage", "sklearn", "matplotlib", "onnx_ir", "torch"):
    pytest.importorskip(package)

from PIL import Image

from benchmarks.accuracy import accuracy
from benchmarks.accuracy.comparison import picture, precisions, tables
from benchmarks.accuracy.comparison.asking import NO_PICTURE, Asker
from benchmarks.accuracy.comparison.measure import ask_all, measure
from benchmarks.accuracy.comparison.ways import (
    BLIND,
    DROPPED,
    GLIMPSE,
    METHOD,
    ORACLE,
    RANDOM_AT_SPLIT,
    TWO_STAGE,
    UNPRUNED,
    Way,
)
from glimpse_models.pocket.scenes.heldout import samples
from glimpse_models.pocket.scenes.relevant import relevant_tokens
from glimpse_runtime import Session, load
from glimpse_runtime.bundle.packaged import packaged_bundle
from glimpse_runtime.cli import terminal
from glimpse_runtime.steps.lower import LowerLayers
from glimpse_runtime.steps.pipeline import Pipeline

LAYERS, LOWER, ROW_BYTES = 6, 3, 2 * 2 * 32 * 4
"""Pocket's: a row of one layer has keys and values of two heads of 32 float32."""


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with load(scene_cache_bytes=0) as vlm:
        yield vlm


@pytest.fixture(scope="module")
def asker(session: Session) -> Asker:
    return Asker(session)


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        terminal.run(accuracy.command, list(words))
    return int(ended.value.code or 0)


def test_kv_bytes_are_those_of_the_rows(asker: Asker, session: Session) -> None:
    image, question = Image.effect_noise((224, 336), 90).convert("RGB"), "What colour is the circle?"
    total = 8 * 12
    text = session.ask(image, question, max_new_tokens=1).stats.prompt_tokens - total
    look = asker.look(image)

    def found(way: Way, mask: np.ndarray | None = None) -> tuple[int, int]:
        reply = asker.ask(look, question, way.pruning(0, mask))
        return reply.kv_bytes // ROW_BYTES, reply.kv_peak_bytes // ROW_BYTES

    all_rows = LAYERS * (text + total)
    assert found(UNPRUNED) == (all_rows, all_rows)
    # Before layer 0 nothing but what is kept was ever there; at the split all was, and the glimpse's own row.
    assert found(Way(METHOD, "uniform", 0.25)) == (LAYERS * (text + 24), LAYERS * (text + 24))
    assert found(Way(METHOD, "fastv", 0.25)) == (LAYERS * (text + 24), LOWER * (text + total))
    assert found(Way(METHOD, "glimpse-attention", 0.25)) == (LAYERS * (text + 24), LOWER * (text + total + 1))
    assert found(DROPPED, np.zeros((12, 8), bool)) == (LAYERS * text, LOWER * (text + total))
    kept = asker.ask(look, question, GLIMPSE.pruning()).kept
    two = Way(TWO_STAGE, "glimpse", 0.01, "uniform", 0.5)
    assert found(GLIMPSE)[0] == LAYERS * (text + kept)
    least = LAYERS * (text + session.bundle.manifest.pruning.min_keep)
    assert found(two) == (least, max(least, LOWER * (text + 48 + 1)))


def test_every_question_runs_the_whole_prompt(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    run_lower = LowerLayers._run

    def watched(self: LowerLayers, entry: object, done: int, *rest: object) -> object:
        started.append(done)
        return run_lower(self, entry, done, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(LowerLayers, "_run", watched)
    monkeypatch.setattr(Pipeline, "prefix", lambda *_: pytest.fail("kept the start of a prompt"))
    chosen = [UNPRUNED, GLIMPSE, Way(METHOD, "uniform", 0.5), BLIND]
    measure(asker._session, chosen, samples(3), seed=0)
    assert started == [0] * len(started)
    assert len(started) == (1 + 3) * len(chosen)


def test_the_image_counts_for_every_question(asker: Asker) -> None:
    (sample,) = samples(1)
    look = asker.look(sample.image)
    assert look.spent_ms > 0
    for way in (UNPRUNED, GLIMPSE):
        reply = asker.ask(look, sample.question.text, way.pruning())
        assert reply.ttft_ms > look.spent_ms + reply.prefill_ms
    assert asker.ask(NO_PICTURE, sample.question.text, BLIND.pruning()).kept == 0


def test_a_session_that_keeps_scenes_is_refused() -> None:
    with load(warmup="off") as vlm, pytest.raises(ValueError, match="scene_cache_bytes=0"):
        Asker(vlm)


def test_answers_are_those_of_the_public_interface_and_masks_are_what_they_say(asker: Asker, session: Session) -> None:
    rng = np.random.default_rng(0)
    chosen = [UNPRUNED, GLIMPSE, Way(METHOD, "divprune", 0.3), ORACLE, BLIND, DROPPED, RANDOM_AT_SPLIT]
    for sample in samples(3, seed=3):
        look = asker.look(sample.image)
        replies = ask_all(asker, look, sample, chosen, rng)
        for way in (UNPRUNED, GLIMPSE, chosen[2]):
            answer = session.ask(sample.image, sample.question.text, pruning=way.pruning())
            assert replies[way].text == answer.text.strip()
            assert replies[way].kept == answer.pruning.kept
        assert replies[BLIND].text == session.ask([], sample.question.text).text.strip()
        assert replies[DROPPED].kept == 0
        assert replies[RANDOM_AT_SPLIT].kept == replies[GLIMPSE].kept
        relevant = relevant_tokens(sample.question.boxes, sample.image.size, *look.grid)
        assert np.array_equal(replies[ORACLE].mask, relevant)


def test_two_questions_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "result.json"
    words = ["--pruners", "glimpse,uniform,none", "--keep", "0.25,0.111", "--samples", "2", "--out", str(out)]
    assert run(*words, "--precisions", "int8", "--json") == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert json.loads(out.read_text()) == result
    assert "2/2, 0 s left" in printed.err
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows)[:4] == ["none", "glimpse", "glimpse 0.25", "glimpse 0.111"]
    assert list(rows)[-3:] == ["blind", "dropped", "random-at-split"]
    assert result["row"] == "glimpse 0.111"
    assert result["accuracy"] == rows["glimpse 0.111"]["exact_match"]
    assert result["accuracy_unpruned"] == rows["none"]["exact_match"]
    assert result["pruned_share"] == pytest.approx(1 - rows["glimpse 0.111"]["kept_share"], abs=1e-6)
    assert result["pruned_share"] >= 1 - 0.111
    assert rows["uniform 0.25"]["kept_share"] == 0.25
    assert rows["dropped"]["kept_share"] == rows["blind"]["kept_share"] == 0
    assert rows["random-at-split"]["kept_share"] == rows["glimpse"]["kept_share"]
    for row in rows.values():
        assert row["exact_match"] in (0, 0.5, 1)
        assert row["ttft_ms"] > row["prefill_ms"] > 0
    assert [row["precision"] for row in result["precisions"]] == ["fp32", "int8"]
    exact, rounded = result["precisions"]
    assert exact["iou"] == exact["iou_of_all_tokens"] == 1
    assert 0 < rounded["iou"] <= 1
    assert rounded["kept_share"] > 0
    report = accuracy.report(result)
    assert len({len(line) for line in report.split("\n\n")[0].splitlines()}) == 1


def test_a_way_that_the_bundle_lacks_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--pruners", "nothing", "--samples", "1") == 1
    assert capsys.readouterr().err.startswith("Error: unknown pruning method 'nothing'")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--keep", "0.5,1.5"], "shares lie above 0 and up to 1"),
        (["--keep", "half"], "half"),
        (["--precisions", "int3"], "unknown precision 'int3'"),
        (["--precisions", "int4:hed=int8"], "no part 'hed'"),
        (["--precisions", "int4:lower"], "write for example"),
        (["--precisions", ":lower=int8"], "write for example"),
        (["--precisions", "int4:lower=int8:lower=int4"], "write for example"),
        (["--out", "no-such-folder/x.json"], "cannot write into"),
        (["--samples", "0"], "--samples"),
    ],
)
def test_mistakes_are_found_before_anything_is_measured(
    words: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2
    assert error in capsys.readouterr().err


def test_an_interrupted_run_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(accuracy, "measure", interrupted)
    assert run("--samples", "2", "--out", str(tmp_path / "result.json")) == terminal.INTERRUPTED
    assert capsys.readouterr().err.strip().splitlines()[-1] == "interrupted"
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_compared_with_itself_is_the_same() -> None:
    both = dict.fromkeys(("fp32", "int4"), packaged_bundle())
    first, second = precisions.compare(both, samples(3), 0, None, lambda done: None)
    assert second["iou"] == 1
    for way in ("unpruned", "glimpse"):
        assert second[way] == {**first[way], "difference_interval": (0.0, 0.0)}


def test_page_and_picture_are_made_from_the_result(tmp_path: Path) -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make" / "make_accuracy.py"))
    figures = ROOT / "docs" / "figures"
    assert (figures / "accuracy.md").read_text() == made["render"](), "run: python docs/make/make_accuracy.py"
    result = made["result"]()
    picture.draw(result, tmp_path / "picture.svg")
    drawn = (tmp_path / "picture.svg").read_text()
    committed = (figures / "images" / "accuracy.svg").read_text()
    for series, rows in picture.lines(result["rows"]):
        for text in (drawn, committed):
            assert f">{series}" in text
        keeps = [row["keep"] for row in rows if row["keep"] is not None]
        assert keeps == sorted(keeps)
    assert len(tables.ways(result)) == 1 + len(result["rows"])
