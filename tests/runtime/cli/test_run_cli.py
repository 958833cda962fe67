"""``glimpse-run`` as a user sees it: answers on standard output, one clear line for every mistake."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import Command, assert_one_clear_line
from support.places import ROOT, TESTS

RUN = "glimpse_runtime.cli.run"
QUESTION = "What colour is the circle?"


@pytest.fixture
def image(photo: np.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    return path


def test_answer_on_stdout_and_note_on_stderr(process: Command, image: Path) -> None:
    done = process(RUN, image, QUESTION)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stdout.count("\n") == 1
    assert "packaged pocket model" in done.stderr


def test_json_is_one_object(command: Command, image: Path) -> None:
    done = command(RUN, image, image, QUESTION, "--json", "--max-keep-ratio", "0.1")
    data = json.loads(done.stdout)
    assert set(data) == {"answer", "finish_reason", "probabilities", "model", "pruning", "budget", "stats"}
    assert data["probabilities"] is None
    assert data["pruning"]["kept"] <= 0.1 * data["pruning"]["total"]
    assert len(data["pruning"]["keep_masks"]) == 2
    assert data["stats"]["stage_ms"]["vision"] > 0


def test_stats_and_pruning_options(command: Command, image: Path) -> None:
    done = command(RUN, image, QUESTION, "--stats", "--no-prune")
    assert "visual kept" in done.stderr
    assert "pruning was switched off" in done.stderr
    done = command(RUN, image, QUESTION, "--json", "--threshold", "0", "--max-keep-ratio", "1")
    pruning = json.loads(done.stdout)["pruning"]
    assert pruning["kept"] == pruning["total"] > 0
    done = command(RUN, image, QUESTION, "--json", "--max-new-tokens", "1")
    assert json.loads(done.stdout)["stats"]["new_tokens"] == 1


def test_methods_and_first_stage(command: Command, image: Path) -> None:
    listed = command(RUN, "--list-pruners")
    assert listed.returncode == 0
    lines = [line.split() for line in listed.stdout.splitlines()]
    assert {"glimpse", "dart", "fastv", "oracle"} <= {line[0] for line in lines}
    pruning = json.loads(
        command(RUN, image, QUESTION, "--json", "--pruner", "dart", "--max-keep-ratio", "0.25").stdout
    )["pruning"]
    assert (pruning["method"], pruning["kept"], pruning["pre"]) == ("dart", pruning["total"] // 4, None)
    done = command(RUN, image, QUESTION, "--json", "--stats", "--pre", "divprune", "--pre-keep", "0.5")
    data = json.loads(done.stdout)
    pruning = data["pruning"]
    assert (pruning["method"], pruning["pre"], pruning["pre_kept"]) == ("glimpse", "divprune", pruning["total"] // 2)
    assert pruning["kept"] <= pruning["pre_kept"]
    assert data["stats"]["stage_ms"]["preselect"] > 0
    assert f"{pruning['pre_kept']} of {pruning['total']} entered layer 0, method divprune" in done.stderr


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--pruner", "darts"], "unknown pruning method 'darts'; there are glimpse"),
        (["--pruner", "dart"], "--max-keep-ratio"),
        (["--pruner", "covipal"], "--max-keep-ratio"),
        (["--pre", "dart"], "--pre-keep"),
        (["--pre", "fastv", "--pre-keep", "0.5"], "acts at the split"),
    ],
)
def test_methods_that_cannot_run_are_one_clear_line(command: Command, image: Path, words: list[str], part: str) -> None:
    assert_one_clear_line(command(RUN, image, QUESTION, *words), part)


def test_a_long_question_without_an_image(command: Command) -> None:
    assert command(RUN, "word " * 200, "--max-new-tokens", "1").returncode == 0


def test_sampling_and_ending(command: Command, image: Path) -> None:
    words = (RUN, image, "Hello", "--json", "--max-new-tokens", "5", "--temperature", "2", "--seed")
    answers = [json.loads(command(*words, seed).stdout)["answer"] for seed in ("1", "1", "2", "3", "4")]
    assert answers[0] == answers[1]
    assert len(set(answers)) > 1
    late = json.loads(command(RUN, image, "Hello", "--json", "--timeout", "0").stdout)
    assert (late["answer"], late["finish_reason"]) == ("", "deadline")


def test_text_alone(command: Command) -> None:
    done = command(RUN, "Hello there", "--max-new-tokens", "2", "--json")
    assert json.loads(done.stdout)["pruning"]["reason"] == "the prompt has no image"


def test_overlay_shows_kept_regions_untouched(command: Command, image: Path, photo: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "overlay.png"
    done = command(RUN, image, QUESTION, "--overlay", out, "--json", "--max-keep-ratio", "0.2", "--threshold", "0")
    mask = np.array(json.loads(done.stdout)["pruning"]["keep_masks"][0], bool)
    found = np.asarray(Image.open(out))
    assert found.shape == photo.shape
    cell = np.array(photo.shape[:2]) / mask.shape
    row, column = ((np.argwhere(mask)[0] + 0.5) * cell).astype(int)
    assert np.array_equal(found[row, column], photo[row, column])
    row, column = ((np.argwhere(~mask)[-1] + 0.5) * cell).astype(int)
    assert found[row, column].sum() < 0.6 * photo[row, column].sum()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["overlay.png", "photo.png"]


def test_bundle_from_the_environment(command: Command, image: Path, tmp_path: Path) -> None:
    assert_one_clear_line(command(RUN, image, QUESTION, GLIMPSE_BUNDLE=str(tmp_path / "x")), "there is no bundle at")


def test_help_and_version(command: Command) -> None:
    done = command(RUN, "--help")
    assert done.returncode == 0
    assert "--max-keep-ratio" in done.stdout
    assert "bundle format 4" in command(RUN, "--version").stdout


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "Missing argument"),
        (["{image}"], "is an image; give a question after it"),
        (["typo.JPG"], "is an image; give a question after it"),
        (["{image}", "q", "--no-prune", "--threshold", "0.5"], "so --threshold has no meaning"),
        (["{image}", "q", "--no-prune", "--pre", "dart"], "so --pre has no meaning"),
        (["{image}", "q", "--pre", "dart", "--pre-keep", "2"], "0.0<=x<=1.0"),
        (["{image}", "q", "--overlay", "{image}"], "would overwrite the image"),
        (["{image}", "q", "--seed", "-1"], "x>=0"),
        (["{image}", "q", "--treshold", "0.5"], "--threshold"),
        (["{image}", "q", "--threshold", "2"], "0.0<=x<=1.0"),
        (["{image}", "q", "--max-new-tokens", "0"], "x>=1"),
        (["question", "--overlay", "o.png"], "--overlay needs an image"),
    ],
)
def test_usage_mistakes_exit_with_2(command: Command, image: Path, words: list[str], part: str) -> None:
    done = command(RUN, *[word.format(image=image) for word in words])
    assert_one_clear_line(done, code=2)
    assert part in done.stderr


def test_every_kind_of_bad_image(command: Command, process: Command, tmp_path: Path) -> None:
    bad = {"empty.png": b"", "text.jpg": b"this is no picture", "cut.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0"}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    for name in [*bad, "missing.png", "."]:
        assert_one_clear_line(command(RUN, tmp_path / name, QUESTION), str(tmp_path / name))
    assert_one_clear_line(process(RUN, tmp_path / "missing.png", QUESTION), "missing.png")


def test_overlay_that_cannot_be_written_is_refused_first(command: Command, image: Path, tmp_path: Path) -> None:
    for name in ("none/overlay.png", "overlay.txt", "overlay"):
        assert_one_clear_line(command(RUN, image, QUESTION, "--overlay", tmp_path / name), "cannot write")


def test_damaged_bundle_and_long_prompt(command: Command, image: Path, golden_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(golden_bundle, tmp_path / "bundle"))
    assert_one_clear_line(command(RUN, image, QUESTION, "--bundle", bundle), "no tokenizer")
    (bundle / "vision.data").write_bytes(b"short")
    assert_one_clear_line(command(RUN, image, QUESTION, "--bundle", bundle), "vision.data has 5 bytes")
    assert_one_clear_line(command(RUN, image, "word " * 20_000), "rows of context", "--max-context")
    done = command(RUN, image, QUESTION, "--bundle", bundle, "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_without_onnxruntime_it_says_what_to_install(command: Command, image: Path, tmp_path: Path) -> None:
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "onnxruntime.py").write_text("raise ImportError('blocked')")
    import os

    from support.places import ROOT

    roots = [str(tmp_path / "block"), *(str(ROOT / root) for root in ("runtime", "models"))]
    done = command(RUN, image, QUESTION, PYTHONPATH=os.pathsep.join(roots))
    assert_one_clear_line(done, 'pip install "glimpse-edge[cpu]"')


def test_interruption_and_bugs_have_their_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from glimpse_runtime.cli import run as cli
    from glimpse_runtime.cli import terminal

    for error, code, line in (
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("x"), 1, "a bug: run again"),
    ):

        def fail(*unused: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(cli, "answer_question", fail)
        with pytest.raises(SystemExit) as caught:
            terminal.run(cli.run, ["a.png", "q"])
        assert caught.value.code == code
        assert line in capsys.readouterr().err


def test_help_starts_without_the_heavy_imports(process: Command) -> None:
    start = time.perf_counter()
    process(RUN, "--help")
    assert time.perf_counter() - start < 5  # speed itself is measured in benchmarks/
    done = process("light_probe", PYTHONPATH=f"{TESTS / 'house'}:{ROOT / 'runtime'}")
    assert done.stdout.split() == []
