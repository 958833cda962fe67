"""``glimpse-export`` with targets, boards and bundles to build engines of."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("onnx")

from support.commands import Command, assert_one_clear_line
from support.places import FAKE_TENSORRT, ROOT

from glimpse_export.cli.export import run
from glimpse_export.cli.request import export_options
from glimpse_export.engines import after, builder
from glimpse_export.engines.build.build import build_engine
from glimpse_export.errors import BuildError, UnsupportedError
from glimpse_export.planning import boards
from glimpse_export.planning.make import check_dialects
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.packaged import packaged_bundle
from glimpse_runtime.engines import flavours
from glimpse_runtime.engines.flavours import installed
from glimpse_runtime.engines.gpu import Gpu

BUILT = ("vision", "score", "lower", "upper", "compact")
ORIN = Gpu("Orin", (8, 7), 8 << 30, True)
Export = Callable[..., Result]


@pytest.fixture
def export(fake_tensorrt: pytest.MonkeyPatch, tmp_path: Path) -> Export:
    """The command, on a board with a stand-in of TensorRT and an empty cache."""
    fake_tensorrt.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    for module in (builder, after):
        fake_tensorrt.setattr(module, "current_gpu", lambda: ORIN)
    fake_tensorrt.setattr(builder, "available_bytes", lambda: 64 << 30)
    fake_tensorrt.setattr(builder, "build_apart", lambda job: build_engine(installed(job.target), job))
    return lambda *words: CliRunner().invoke(run, [str(word) for word in words], catch_exceptions=False)


def words_of(*words: str) -> dict[str, object]:
    """What click makes of a command line."""
    return dict(run.make_context("glimpse-export", list(words)).params)


# From a bundle.


def test_engines_of_a_bundle(export: Export, engine_bundle: Path) -> None:
    done = export("--bundle", engine_bundle, "--target", "tensorrt", "--no-plugin")
    assert done.exit_code == 0, done.output
    assert [Path(line).stem for line in done.stdout.splitlines()] == list(BUILT)
    assert all(Path(line).is_file() for line in done.stdout.splitlines())
    assert "lower: built in" in done.stderr
    again = export("--bundle", engine_bundle, "--target", "tensorrt", "--no-plugin")
    assert again.stdout == done.stdout
    assert "lower: engine is there" in again.stderr


def test_the_dialect_can_be_chosen(export: Export, engine_bundle: Path) -> None:
    done = export("--bundle", engine_bundle, "--target", "tensorrt", "--no-plugin", "--dialect", "plain")
    record = json.loads(Path(done.stdout.splitlines()[0]).with_suffix(".json").read_text())
    assert record["key"]["graph"] == Bundle.open(engine_bundle).manifest.files["vision.plain.onnx"].sha256


def test_a_dry_run_says_what_there_is_to_build(export: Export, engine_bundle: Path, tmp_path: Path) -> None:
    words = ("--bundle", engine_bundle, "--target", "tensorrt", "--no-plugin", "--dry-run")
    done = export(*words)
    assert done.exit_code == 0
    first, *rest = done.stdout.splitlines()
    assert first == "tensorrt 10.15.1 on Orin (8.7), dialect opset24"
    assert any(line.startswith("lower    to build, about ") and "prefill, decode" in line for line in rest)
    assert not (tmp_path / "cache" / "engines").exists()
    export(*words[:-1])
    entries = json.loads(export(*words, "--json").stdout)
    assert {entry["stage"]: entry["is_built"] for entry in entries} == dict.fromkeys(BUILT, True)
    assert all(Path(entry["file"]).is_file() for entry in entries)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name either --model to export, or --bundle"),
        (["--model", "pocket", "--bundle", "b"], "name either --model to export, or --bundle"),
        (["--bundle", "b"], "needs --target tensorrt or tensorrt-rtx"),
        (["--bundle", "b", "--target", "cpu"], "needs --target tensorrt or tensorrt-rtx"),
        (["--bundle", "b", "--target", "tensorrt", "--out", "c"], "--out is for an export, not for --bundle"),
        (["--bundle", "b", "--target", "tensorrt", "--precision", "int4"], "--precision is for an export"),
        (["--bundle", "b", "--target", "tensorrt", "--certify", "off"], "--certify is for an export"),
        (["--bundle", "b", "--target", "tensorrt", "--dialect", "plain", "--dialect", "opset24"], "one --dialect"),
        (["--bundle", "b", "--target", "tensorrt", "--json"], "--json prints a plan; use it with --dry-run"),
        (["--model", "pocket", "--board", "orin"], "Invalid value for '--board'"),
        (["--model", "pocket", "--target", "cuda"], "Invalid value for '--target'"),
    ],
)
def test_options_that_mean_nothing_together(export: Export, words: list[str], message: str) -> None:
    done = export(*words)
    assert done.exit_code == 2
    assert message in done.stderr


def fake_path() -> str:
    roots = [ROOT / root for root in ("runtime", "export", "models", "plugins")]
    return os.pathsep.join(map(str, [FAKE_TENSORRT, *roots]))


def test_failures_are_one_clear_line(command: Command, engine_bundle: Path, tmp_path: Path) -> None:
    """In real processes, without a GPU."""
    build = ("glimpse_export.cli.export", "--bundle")
    gone = command(*build, tmp_path / "gone", "--target", "tensorrt-rtx", PYTHONPATH=fake_path())
    assert_one_clear_line(gone, "there is no bundle at")
    no_gpu = command(*build, engine_bundle, "--target", "tensorrt", PYTHONPATH=fake_path())
    assert_one_clear_line(no_gpu, "TensorRT 10.15.1 builds an engine on the GPU it is for")
    other = command(*build, packaged_bundle(), "--target", "tensorrt-rtx", PYTHONPATH=fake_path())
    assert_one_clear_line(other, "has the dialect ort", "--dialect opset24")


def test_without_tensorrt_the_package_is_named(command: Command, engine_bundle: Path, tmp_path: Path) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('gone', name='{name}')")
    path = os.pathsep.join([str(tmp_path), *fake_path().split(os.pathsep)[1:]])
    done = command("glimpse_export.cli.export", "--bundle", engine_bundle, "--target", "tensorrt", PYTHONPATH=path)
    assert_one_clear_line(done, "the Python module tensorrt is not installed", "python3-libnvinfer")


def test_without_onnx_the_extra_is_named(
    export: Export, engine_bundle: Path, fake_tensorrt: pytest.MonkeyPatch
) -> None:
    installed("tensorrt")  # the stand-in reads graphs with onnx
    fake_tensorrt.setitem(sys.modules, "onnx", None)
    with pytest.raises(BuildError, match=r"glimpse-edge\[engines\]"):
        export("--bundle", engine_bundle, "--target", "tensorrt", "--no-plugin")


# After an export.


def test_an_export_builds_its_engines(export: Export, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "out"
    done = export("--model", "pocket", "--target", "tensorrt", "--no-plugin", "--certify", "off", "--out", out)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{out}\n"
    assert Bundle.open(out).manifest.dialects == ("opset24",)
    assert f"{len(BUILT)} engines for Orin (8.7)" in done.stderr


@pytest.mark.slow
def test_an_export_for_elsewhere_says_what_to_run_there(
    export: Export, fake_tensorrt: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    words = ("--model", "pocket", "--certify", "off", "--force")
    fake_tensorrt.setattr(after, "current_gpu", lambda: None)
    done = export(*words, "--target", "tensorrt", "--out", tmp_path / "a")
    assert done.exit_code == 0
    assert "run on the device: glimpse-export --bundle a --target tensorrt" in done.stderr
    assert "no CUDA device was found" in done.stderr
    fake_tensorrt.setattr(after, "current_gpu", lambda: Gpu("NVIDIA RTX 4070", (8, 9), 12 << 30, False))
    done = export(*words, "--board", "orin-nano-8gb", "--out", tmp_path / "b")
    assert "this machine is not the board (NVIDIA RTX 4070 (8.9))" in done.stderr
    manifest = Bundle.open(tmp_path / "b").manifest
    assert manifest.dialects == ("opset24", "plain")
    assert manifest.profiles["context"].max == 2048
    fake_tensorrt.setitem(sys.modules, "tensorrt", None)
    done = export(*words, "--target", "tensorrt", "--out", tmp_path / "c")
    assert done.exit_code == 0
    assert "the Python module tensorrt is not installed" in done.stderr


def test_a_bundle_outlives_engines_that_cannot_be_built(
    export: Export, fake_tensorrt: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    fake_tensorrt.setenv("FAKE_TENSORRT_FAULT", "build")
    words = ("--model", "pocket", "--target", "tensorrt", "--no-plugin", "--certify", "off", "--out", tmp_path / "out")
    with pytest.raises(BuildError, match="Could not find any implementation"):
        export(*words)
    assert Bundle.open(tmp_path / "out").manifest.dialects == ("opset24",)
    fake_tensorrt.delenv("FAKE_TENSORRT_FAULT")
    done = export(*words)
    assert "nothing to do, unchanged" in done.stderr
    assert "5 engines for Orin (8.7)" in done.stderr


# What is filled in.


def test_a_cpu_is_the_default() -> None:
    made = export_options(words_of("--model", "qwen2.5-vl-3b"))
    assert (made.target, made.dialects) == ("cpu", ("ort",))
    assert (made.precision.lower, made.precision.vision) == ("int4", "int8")
    assert made.budget is None


@pytest.mark.parametrize(
    ("target", "precision", "cache"),
    [("ort-cuda", "fp16", "fp16"), ("tensorrt", "bf16", "bf16"), ("tensorrt-rtx", "bf16", "bf16")],
)
def test_a_target_has_its_recommended_precision(
    monkeypatch: pytest.MonkeyPatch, target: str, precision: str, cache: str
) -> None:
    monkeypatch.setattr(flavours, "repair_rtx_wheel", lambda: None)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    made = export_options(words_of("--model", "qwen2.5-vl-3b", "--target", target))
    assert (made.precision.lower, made.precision.vision, made.precision.kv_cache) == (precision, precision, cache)
    assert made.dialects == (("ort",) if target == "ort-cuda" else ("opset24",))


@pytest.mark.parametrize("precision", [None, "fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("model", ["qwen2.5-vl-3b", "somebody/elses"])
def test_what_is_for_cuda_has_the_cache_that_its_attention_computes_with(model: str, precision: str | None) -> None:
    words = ["--model", model, "--target", "ort-cuda", *(["--precision", precision] if precision else [])]
    assert export_options(words_of(*words)).precision.kv_cache == "fp16"
    asked = export_options(words_of(*words, "--kv-cache-precision", "fp32"))
    with pytest.raises(UnsupportedError, match="target ort-cuda has no attention on a KV cache of fp32; leave"):
        check_dialects(asked)


def test_a_board_fills_in_what_was_not_said() -> None:
    made = export_options(words_of("--model", "qwen2.5-vl-3b", "--board", "orin-nano-8gb"))
    assert (made.target, made.dialects) == ("tensorrt", ("opset24", "plain"))
    assert (made.precision.lower, made.precision.vision, made.precision.kv_cache) == ("int4", "fp16", "fp16")
    assert (made.max_context, made.max_visual_tokens, made.head_parts) == (2048, 1024, 2)
    assert made.budget == boards.parse_budget("orin-nano-8gb")
    said = export_options(
        words_of(
            *("--model", "qwen2.5-vl-3b", "--board", "orin-nano-8gb", "--dialect", "plain", "--precision", "fp16"),
            *("--max-context", "512", "--max-visual-tokens", "64", "--head-parts", "1", "--budget", "9GiB"),
        )
    )
    assert (said.dialects, said.precision.lower) == (("plain",), "fp16")
    assert (said.max_context, said.max_visual_tokens, said.head_parts) == (512, 64, 1)
    assert said.budget == boards.parse_budget("9GiB")


def test_weights_on_a_gpu_are_counted_as_they_are_stored() -> None:
    pytest.importorskip("torch")
    costs = {}
    for target in ("cpu", "tensorrt"):
        words = ["--model", "pocket", "--precision", "fp16", "--dialect", "opset24", "--target", target]
        done = CliRunner().invoke(run, [*words, "--dry-run", "--json"])
        assert done.exit_code == 0, done.output
        costs[target] = json.loads(done.stdout)
    assert costs["tensorrt"]["target"] == "tensorrt"
    widened, stored = (costs[target]["run_time_bytes"]["weights"] for target in ("cpu", "tensorrt"))
    assert 1.8 < widened / stored < 2.1


def test_a_model_that_is_too_large_for_a_board_is_refused() -> None:
    """Pocket fits everywhere; a budget says the same as a board would."""
    pytest.importorskip("torch")
    words = ["--model", "pocket", "--board", "orin-nano-8gb", "--dry-run"]
    assert CliRunner().invoke(run, words).exit_code == 0
    done = CliRunner().invoke(run, [*words, "--budget", "700MiB"])
    assert done.exception is not None
    assert "--budget 700MiB allows" in str(done.exception)
