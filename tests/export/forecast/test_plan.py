"""What a plan says before an export: by hand, against the bundle that follows, and against a budget."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.slow import slow

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

import torch
from safetensors.numpy import load_file
from support.bundles import options
from support.commands import Command, assert_one_clear_line
from support.places import ROOT

from glimpse_export import BudgetError, ExportOptions, export, plan
from glimpse_export.forecast.budget import alternatives, require_fit
from glimpse_export.forecast.estimate import RunMemory, estimate
from glimpse_export.planning.boards import BOARDS, parse_budget
from glimpse_export.planning.plan import Plan
from glimpse_export.weights.precision import Precision
from glimpse_runtime import load
from glimpse_runtime.bundle.memory import ROWS_AT_ONCE

EXPORT = "glimpse_export.cli.export"
BLOCK, BLOCK_COPIES = 128, 8


def run_of(checked: Plan) -> RunMemory:
    return estimate(checked).run


def golden_values(golden: Path) -> dict[str, tuple[int, ...]]:
    """Shape of everything that is loaded at run time."""
    import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)

    shapes = {name: array.shape for name, array in load_file(golden / "base" / "model.safetensors").items()}
    pending = {"adapter": torch.load(golden / "adapter" / "new_modules_gp.pt", weights_only=True, map_location="cpu")}
    while pending:
        name, value = pending.popitem()
        if isinstance(value, torch.Tensor):
            shapes[name] = tuple(value.shape)
        else:
            pending |= {f"{name}.{key}": part for key, part in value.items()}
    # The glimpse's vectors go through these at export; only what comes out is stored.
    return {name: shape for name, shape in shapes.items() if not re.match(r"adapter\.le_(proj|norm)\.", name)}


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16"])
def test_float_weights_are_four_bytes_per_value_when_loaded(golden: Path, model: Path, name: str) -> None:
    values = sum(map(math.prod, golden_values(golden).values()))  # the tied table is the LM head
    found = run_of(plan(options(model, precision=Precision.choose(name)))).weights
    assert found == pytest.approx(4 * values, rel=1e-3)


@pytest.mark.parametrize(("bits", "name"), [(4, "int4"), (8, "int8")])
def test_integer_weights_are_blocks_with_scales_and_sums(golden: Path, model: Path, bits: int, name: str) -> None:
    by_hand = 0
    for tensor, shape in golden_values(golden).items():
        if len(shape) == 2 and tensor.startswith(("model.", "visual.")):
            blocks = shape[0] * -(-shape[1] // BLOCK)
            by_hand += blocks * (BLOCK * bits // 8 + 4 + BLOCK_COPIES)
        else:
            by_hand += 4 * math.prod(shape)
    checked = plan(options(model, precision=Precision.choose(name, vision=name, lower_attention=name)))
    assert run_of(checked).weights == pytest.approx(by_hand, rel=1e-3)


def test_working_memory_follows_the_wider_tower(model: Path) -> None:
    """The golden model: patches of 1176 values, towers of 32 and 64, 4 heads, MLP of 128, 4 taps."""

    def by_hand(visual: int, context: int, received: int = 0) -> float:
        patches = 4 * visual
        run = min(context, ROWS_AT_ONCE)
        arena = max(14 * patches * 32 + received, 4.5 * run * 128 + 4 * run * context)
        return 4 * (arena + patches * 1176 + visual * (64 + 4 * 32) + 2 * context * 64)

    for visual, context in ((1024, 2048), (16, 4096)):
        checked = plan(options(model, max_visual_tokens=visual, max_context=context))
        assert run_of(checked).working == pytest.approx(by_hand(visual, context), rel=1e-6)
        attentive = plan(options(model, max_visual_tokens=visual, max_context=context, vision_attention=True))
        # One head's scores of a quarter of all patches to all of them, before and after the softmax.
        more = by_hand(visual, context, 2 * visual * 4 * visual)
        assert run_of(attentive).working == pytest.approx(more, rel=1e-6)
    tiny = plan(options(model, max_visual_tokens=4, max_context=8))
    assert run_of(tiny).working == 4 * 32 * 1176, "the largest matrix is held twice while it is loaded"


@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_cache_is_that_of_a_session(kind: str, tmp_path: Path) -> None:
    asked = ExportOptions(
        "pocket",
        precision=Precision.choose("fp32", kv_cache=kind),
        max_context=300,
        max_visual_tokens=200,
        certify="off",
    )
    planned = run_of(plan(asked)).kv_cache
    with load(export(asked, tmp_path / "bundle")) as vlm:
        assert vlm.memory_plan()["kv_cache_bytes"] == planned


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_estimate_is_not_far_from_what_pocket_takes() -> None:
    code = (
        "import re, sys; from pathlib import Path; from glimpse_runtime import load\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) << 10\n"
        "load(warmup='off').close(); before = peak()\n"
        "vlm = load(warmup='largest', scene_cache_bytes=0); print(before, peak())"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "runtime") + os.pathsep + str(ROOT / "models")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    loaded, peak = map(int, done.stdout.split())
    run = run_of(plan(ExportOptions("pocket")))
    assert 0.5 < (run.kv_cache + run.working) / (peak - loaded) < 2
    assert 0.7 < (run.total - run.scenes) / peak < 2


def test_peak_of_the_export_is_the_largest_stage(model: Path) -> None:
    costs = estimate(plan(options(model)))
    assert [stage.name for stage in costs.stages] == ["embedding", "vision", "score", "text"]
    assert costs.peak_bytes == max(stage.peak_bytes for stage in costs.stages)
    assert costs.seconds > sum(stage.seconds for stage in costs.stages) > 0
    mixed = estimate(plan(options(model, precision=Precision.choose("int4", head="fp16"))))
    assert mixed.stages[-1].precision == "lower int4, upper int4, head fp16, lower attention int8"


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("8GiB", 8 << 30), ("8 gib", 8 << 30), ("8GB", 8 * 10**9), ("1.5GiB", 3 << 29), ("6000MB", 6 * 10**9)],
)
def test_amounts(text: str, nbytes: int) -> None:
    budget = parse_budget(text)
    assert (budget.available_bytes, budget.reserve_bytes) == (nbytes, 0)


def test_boards_keep_a_reserve_for_the_system() -> None:
    for name, board in BOARDS.items():
        size = board.memory_gib
        assert name.endswith(f"-{size}gb")
        budget = parse_budget(name.upper())
        assert budget.nbytes == size << 30
        assert (1 << 30 if board.shared else 0) < budget.reserve_bytes < 0.4 * budget.nbytes
        assert budget.available_bytes == budget.nbytes - budget.reserve_bytes


@pytest.mark.parametrize("text", ["", "8 apples", "-3GiB", "8", "GiB", "orin-nano", "0GiB", "1e3GB"])
def test_other_budgets_are_usage_errors(text: str, command: Command) -> None:
    with pytest.raises(ValueError, match=r"memory|give a unit"):
        parse_budget(text)
    if text in ("8 apples", "orin-nano"):
        hint = "did you mean orin-nano-8gb" if text == "orin-nano" else "thor-128gb"
        assert_one_clear_line(command(EXPORT, "--model", "pocket", "--budget", text), "--budget", hint, code=2)


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("share", [0.999, 0.7, 0.4])
def test_advice_fits_when_it_is_taken(name: str, share: float) -> None:
    asked = ExportOptions("pocket", precision=Precision.choose(name))
    run = run_of(plan(asked))
    fixed = run.scenes + run.process
    budget = parse_budget(f"{(fixed + share * (run.total - fixed)) / 2**20:.4f}MiB")
    found = alternatives(plan(asked), budget)
    assert found
    for choice in found:
        assert run_of(plan(replace(choice.options, budget=budget))).total == choice.total <= budget.available_bytes
    with pytest.raises(BudgetError) as refusal:
        plan(replace(asked, budget=budget))
    assert all(choice.words in str(refusal.value) for choice in found)


def test_every_change_is_needed() -> None:
    """No advice contains another one's changes and more."""
    checked = plan(ExportOptions("pocket"))
    run = run_of(checked)
    budget = parse_budget(f"{(run.total - 24 * 2**20) / 2**20:.3f}MiB")
    changed = [set(re.findall(r"--[a-z-]+", choice.words)) for choice in alternatives(checked, budget)]
    assert changed
    assert not any(one < other for one in changed for other in changed)


def test_nothing_fits_into_too_little() -> None:
    checked = plan(ExportOptions("pocket"))
    with pytest.raises(BudgetError, match="a smaller model or a larger budget"):
        require_fit(checked, parse_budget("100MiB"))
    require_fit(checked, parse_budget("orin-nano-8gb"))


def test_command_refuses_before_any_work_and_its_words_help(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    words = ["--model", "pocket", "--precision", "fp16", "--vision-precision", "fp32", "--budget", "425MiB"]
    for more in (["--dry-run"], ["--out", out]):
        done = command(EXPORT, *words, *more)
        assert_one_clear_line(done, "at run time", "--budget 425MiB", "largest request")
        assert list(tmp_path.iterdir()) in ([], [tmp_path / ".bundle.lock"])
    advice = re.findall(r"^  (--.*?)  about", done.stderr, re.MULTILINE)
    assert advice
    for line in advice:
        taken = command(EXPORT, *words, *line.split(), "--dry-run")
        assert taken.returncode == 0, taken.stderr
        assert "(--budget 425MiB)" in taken.stdout
    assert command(EXPORT, *words, *advice[0].split(), "--out", out).returncode == 0


def test_command_prints_the_plan_as_text_and_json(command: Command) -> None:
    words = ["--model", "pocket", "--precision", "int4", "--kv-cache-precision", "fp16", "--dry-run"]
    text = command(EXPORT, *words).stdout
    for part in ("int4", "int8", "fp16, 4096 rows", "about", "estimates", "cached scenes"):
        assert part in text
    found = json.loads(command(EXPORT, *words, "--json").stdout)
    costs = estimate(plan(ExportOptions("pocket", precision=Precision.choose("int4", kv_cache="fp16"))))
    assert found["run_time_bytes"] == {**costs.run.posts, "total": costs.run.total}
    assert found["export"]["peak_bytes"] == costs.peak_bytes
    assert found["precision"]["kv_cache"] == "fp16"
    assert_one_clear_line(command(EXPORT, "--model", "pocket", "--json"), "--dry-run", code=2)


@pytest.mark.skipif(sys.platform != "linux", reason="accounts as Linux does")
@slow
def test_benchmark_measures_a_child(tmp_path: Path, golden: Path) -> None:
    script = ROOT / "benchmarks" / "export" / "export_size.py"
    words = ["--checkpoint", golden, "--out", tmp_path / "bundle", "--json", "--", "--no-tokenizer"]
    done = subprocess.run(
        [sys.executable, script, *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["bundle_bytes"] == sum(path.stat().st_size for path in (tmp_path / "bundle").iterdir())
    assert 0.5 < found["peak_rss_bytes"] / found["estimated_peak_bytes"] < 1.5
    assert found["seconds"] > 0
    assert found["precision"]["vision"] == "int8"
