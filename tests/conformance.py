#!/usr/bin/env python3
"""Compares the exported model and the runtime with golden vectors of the reference implementation.

    python tests/conformance.py [--dialect ort|opset24|plain] DIR...

Each DIR is a model folder: ``base/``, ``adapter/``, ``cases/``, ``images/`` (see tests/golden/FORMAT.md and
FORMAT-LLAVA.md). The model is exported to a temporary bundle and every case runs through the runtime, from its PNG
files to the last token. A base in another layout beside it, ``base_NAME/``, holds the same weights; it is exported too,
for the cases without pruning. Arrays come from the pipeline's trace; none is taken from the golden file. Exit status 1
when a case fails.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

# The script tests the clone it lies in, installed or not.
sys.path[:0] = [str(Path(__file__).parents[1] / root) for root in ("runtime", "export", "models", "plugins")]


from golden_names import NAMES

from glimpse_export import ExportOptions, Plan, export, plan
from glimpse_export.model.fields import read_json
from glimpse_runtime import GlimpseError, Pruning
from glimpse_runtime.arrays import Array
from glimpse_runtime.backends import open_backend
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.manifest import Manifest
from glimpse_runtime.session.session import Session
from glimpse_runtime.steps.pipeline import Pipeline

ATOL, RTOL, PIXEL_TOL = 2e-3, 1e-3, 1e-5
# Facts of the case rather than results of the pipeline.
INPUTS = {"input_ids", "input_ids_raw", "attention_mask", "ref_token_mask"}
LOGITS = ("logits_first", "logits_steps")


@dataclass
class CaseResult:
    """What came of one case: what differed, and the largest float difference."""

    name: str
    problems: list[str] = field(default_factory=list)
    compared: int = 0
    worst: float = 0.0
    worst_key: str = "-"


def run_model(folder: Path, dialect: str = "ort") -> Iterator[CaseResult]:
    """Exports a model folder in every layout that it has and yields the result of each of its cases."""
    cases = sorted(path.stem for path in (folder / "cases").glob("*.npz"))
    plain = [name for name in cases if not _settings(folder, name)["do_selection"]]
    yield from run_base(folder, "base", cases, dialect)
    for other in sorted(path.name for path in folder.glob("base_*")):
        for result in run_base(folder, other, plain, dialect):
            yield dataclasses.replace(result, name=f"{result.name} of {other}")


def run_base(folder: Path, base: str, cases: Sequence[str], dialect: str) -> Iterator[CaseResult]:
    """Exports one layout of a model and yields the result of each of some cases."""
    with tempfile.TemporaryDirectory() as temporary:
        options = dataclasses.replace(_options(folder, base), dialects=(dialect,), trace=True)
        bundle = Bundle.open(export(options, Path(temporary) / "bundle"))
        for name in cases:
            yield run_case(folder, name, bundle)


def in_dialect(bundle: Bundle, dialect: str) -> Bundle:
    """Returns a bundle with the graphs of one of its dialects alone."""
    graphs = {dialect: bundle.manifest.stages_of(dialect)}
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, graphs=graphs))


def _options(folder: Path, base: str = "base") -> ExportOptions:
    return ExportOptions(str(folder / base), str(folder / "adapter"), tokenizer=False, certify="off")


@cache
def _plan(folder: Path, base: str) -> Plan:
    return plan(_options(folder, base))


def _settings(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "cases" / f"{name}.json").read_text())
    return {"name": name, **found}


def run_case(folder: Path, name: str, bundle: Bundle, device: str = "cpu") -> CaseResult:
    """Runs one case and compares every array it has."""
    return check_case(folder, _settings(folder, name), dict(np.load(folder / "cases" / f"{name}.npz")), bundle, device)


def check_case(
    folder: Path, case: dict[str, Any], golden: dict[str, Array], bundle: Bundle, device: str = "cpu"
) -> CaseResult:
    """Runs a case whose settings and expected arrays are given."""
    result = CaseResult(case["name"])
    try:
        candidate = candidate_arrays(folder, case, golden, bundle, device)
    except GlimpseError as error:
        result.problems.append(f"{type(error).__name__}: {error}")
        return result
    for key, expected in golden.items():
        if key in INPUTS:
            continue
        if key in candidate:
            compare(key, expected, closest(folder, key, expected, candidate, bundle), result)
        elif expected.size:
            result.problems.append(f"{key}: not produced")
    return result


def closest(folder: Path, key: str, expected: Array, candidate: dict[str, Array], bundle: Bundle) -> Array:
    """Returns the candidate's array, of the readings that the format leaves open the one nearer to the golden one.

    Where layer K is the last one, the reference applies the final norm to all rows, the glimpse row included, before
    it prunes: states of layer K may be meant before or after that norm, and the norm's last row may be the glimpse's.
    """
    readings = [candidate[key]]
    if bundle.manifest.text.lower_layers == bundle.manifest.text.layers:
        if key in ("hidden_reduce", "hidden_compact"):
            readings.append(final_norm(folder, candidate[key]))
        elif key == "final_hidden_last" and "glimpse_hidden_layers" in candidate:
            readings.append(final_norm(folder, candidate["glimpse_hidden_layers"][-1, -1]))
    if len(readings) == 1:
        return readings[0]
    return min(readings, key=lambda array: float(np.abs(array - expected).max(initial=0)))


def final_norm(folder: Path, hidden: Array) -> Array:
    """Returns hidden states after the decoder's last norm."""
    checked = _plan(folder, "base")
    weight, eps = checked.checkpoint.read("model.norm.weight"), checked.architecture.text.norm_eps
    normed: Array = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + eps) * weight
    return normed


def compare(key: str, expected: Array, found: Array, result: CaseResult) -> None:
    """Compares one array within the tolerances of FORMAT.md."""
    result.compared += 1
    if key in LOGITS:  # a table may have rows behind the words there are
        found = found[..., : expected.shape[-1]]
    if expected.shape != found.shape:
        result.problems.append(f"{key}: shape {found.shape}, golden {expected.shape}")
    elif expected.dtype.kind in "iub":
        if not np.array_equal(expected, found):
            result.problems.append(f"{key}: {int((expected != found).sum())} of {expected.size} differ")
    elif expected.size:
        difference = np.abs(expected.astype(np.float64) - found.astype(np.float64))
        bound = PIXEL_TOL if key == "pixel_values" else ATOL + RTOL * np.abs(expected)
        if key != "pixel_values" and difference.max() > result.worst:
            result.worst, result.worst_key = float(difference.max()), key
        if not (difference <= bound).all():
            result.problems.append(f"{key}: max abs difference {difference.max():.3g}")


def candidate_arrays(
    folder: Path, case: dict[str, Any], golden: dict[str, Array], bundle: Bundle, device: str = "cpu"
) -> dict[str, Array]:
    """Runs the pipeline on a case's images and token ids, and names what it traced as FORMAT.md does."""
    trace: dict[str, list[Array]] = defaultdict(list)
    names = NAMES[bundle.manifest.model.architecture]
    images = names.images(folder, case)
    ids = names.bundle_ids(golden["input_ids"][0], bundle.manifest)
    eos = case["eos_token_id"]
    with session_for(folder, case, bundle, lambda name, value: trace[name].append(np.array(value)), device) as session:
        answer = session.ask_ids(
            images,
            ids,
            pruning=pruning_for(folder, case, golden),
            max_new_tokens=case["max_new_tokens"],
            eos=eos if isinstance(eos, list) else [eos],
        )
        assert answer.text == ""
    shapes = [mask.shape for mask in answer.pruning.keep_masks]
    return name_arrays(trace, golden["input_ids"][0], answer.token_ids, shapes, bundle.manifest)


def session_for(folder: Path, case: dict[str, Any], bundle: Bundle, trace: Any, device: str = "cpu") -> Session:
    """Opens a session with the case's image rules."""
    checked = _plan(folder, bundle.manifest.model.source.base)
    images = {**checked.configs.images, **case.get("processor_overrides", {})}
    configs = dataclasses.replace(checked.configs, images=images)
    record = checked.family.record(checked.architecture, checked.family.read_images(configs, checked.architecture))
    changed = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, family=record))
    return Session(changed, Pipeline(changed, open_backend(device), trace))


def pruning_for(folder: Path, case: dict[str, Any], golden: dict[str, Array]) -> Pruning:
    """Turns a case's settings into a pruning request; 'no cap' is a cap of 1, 'no minimum' one of 0."""
    if not case["do_selection"]:
        return Pruning(enabled=False)
    config = read_json(folder / "adapter" / "config.json") | case["config_overrides"]
    masked = case.get("use_ref_masks", False)
    ratio, minimum = config.get("max_remain_ratio"), config.get("min_remain_num", 1)
    return Pruning(
        threshold=None if masked else config.get("reduce_threshold", 0.5),
        max_keep_ratio=1.0 if ratio is None else ratio,
        min_keep=0 if minimum is None else minimum,
        anchors=tuple(config.get("anchor_positions") or ()),
        keep_masks=[golden["ref_token_mask"]] if masked else None,
    )


def name_arrays(
    trace: dict[str, list[Array]],
    ids: Array,
    tokens: Sequence[int],
    grids: Sequence[tuple[int, ...]],
    manifest: Manifest,
) -> dict[str, Array]:
    """Gives traced arrays the names and shapes of FORMAT.md."""
    text, names = manifest.text, NAMES[manifest.model.architecture]
    last_lower, upper = text.lower_layers - 1, text.lower_layers
    positions, keep_rows = trace["position_ids"][0], trace["keep_rows"][0]
    logits = np.concatenate(trace["logits_step"])
    out: dict[str, Array] = {
        "position_ids": names.positions(positions),
        **names.of_prompt(positions),
        "logits_first": logits[0],
        "logits_steps": logits,
        "generated_ids": np.array(tokens),
        "decode_position_ids": names.decode_positions(trace["decode_position"]),
        "decode_past_len": np.array(trace["decode_past_len"]).reshape(-1),
        "hidden_reduce": trace["hidden_reduce"][0],
        "hidden_compact": trace["hidden_reduce"][0][keep_rows],
        "remain_mask": np.isin(np.arange(len(ids)), keep_rows),
        "reduced_input_ids": ids[keep_rows][None],
        "reduced_position_ids": names.positions(positions[:, keep_rows]),
        "final_hidden_last": trace["trace.final_hidden_last"][0].reshape(-1),
    }
    if grids:
        out |= names.of_images(trace, grids, manifest)
        out["image_embeds"] = np.concatenate(trace["image_embeds"])
        out["visual_features"] = np.concatenate(trace["visual_features"], axis=1)
    for name in ("keep_mask", "attn_logits", "mask_logits"):
        if trace[name]:
            out[name] = trace[name][0]
    if trace["glimpse_position_ids"]:
        out["glimpse_position_ids"] = names.glimpse_positions(trace["glimpse_position_ids"][0])
    if trace["attn_logits"]:
        out["attn_logits"] = out["attn_logits"].reshape(len(out["attn_logits"]), -1, text.heads)
        states = sorted((name for name in trace if name.startswith("trace.vip_hidden.")), key=_number)
        out["vip_hidden"] = np.stack([np.concatenate(trace[name]) for name in states])
        lower = [trace[f"trace.glimpse_hidden.{layer}"][0][0] for layer in range(text.lower_layers)]
        out["glimpse_hidden_layers"] = np.stack(lower)
    rows = [trace[f"trace.upper_last_hidden.{layer}"][0].reshape(-1) for layer in range(upper, text.layers)]
    out["upper_last_hidden"] = np.stack(rows) if rows else np.zeros((0, text.hidden_size), np.float32)
    for label, layer in (("first", 0), ("last", last_lower), ("upper", upper)):
        for part in ("key", "value"):
            if trace[f"cache.{layer}.{part}"]:
                out[f"kv_{part[0]}_{label}"] = trace[f"cache.{layer}.{part}"][0]
    return out


def _number(name: str) -> int:
    return int(name.rsplit(".", 1)[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all folders and prints a line per case; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--dialect", default="ort")
    options = parser.parse_args(arguments)
    passed = failed = 0
    for folder in options.folders:
        try:
            for result in run_model(folder, options.dialect):
                good = not result.problems
                passed, failed = passed + good, failed + (not good)
                summary = f"{result.compared} arrays, max abs difference {result.worst:.2e} ({result.worst_key})"
                print(f"{'ok  ' if good else 'FAIL'} {folder.name}/{result.name}: {summary}")
                for problem in result.problems:
                    print(f"     {problem}")
        except GlimpseError as error:
            failed += 1
            print(f"FAIL {folder}: {error}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
