"""Golden vectors on a GPU: the answers of the reference implementation, in every precision that the device computes in.

    python benchmarks/speed/gpu/conformance.py --device cuda|tensorrt|tensorrt-rtx [--precision fp16 ...] DIR...

Each DIR is a model folder as for tests/conformance.py. It is exported in every precision to a temporary bundle, engines
are built where the device needs them, and every case runs on the device. In fp32 on TensorRT every array must be equal
within the tolerances of tests/golden/FORMAT.md. Elsewhere the kept tokens must overlap with the reference's by an IoU
of 0.9 on average, and the tokens agree up to the first one whose two best logits lie closer than rounding reaches; the
device cuda has no fp32 attention, so its KV cache is fp16 in every precision.

Exit status: 0, 1 when a case fails, 3 when there is no such device.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))

# That of tests/, not this file; it puts the clone's own packages first, installed or not.
import conformance as golden_cases

try:
    from glimpse_export import ExportOptions, export
    from glimpse_export.weights.precision import Precision
except ModuleNotFoundError as error:
    sys.exit(f'{error.name} is not installed; run: pip install -e ".[gpu,export]"')
from glimpse_runtime import BackendError, GlimpseError
from glimpse_runtime.backends import open_backend
from glimpse_runtime.bundle.bundle import Bundle

DIALECTS = {"cuda": ("ort",), "tensorrt": ("opset24", "plain"), "tensorrt-rtx": ("opset24",)}
PRECISIONS = ("fp32", "fp16", "bf16")
# Two logits that lie closer than this, relative to the largest, may change places in a narrower type.
ROUNDING = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 6e-2}
LEAST_IOU = 0.9
NO_GPU = 3


@dataclass
class Found:
    """What came of one case.

    Attributes:
        problem: empty if it passes.
        iou: overlap of the kept tokens with the reference's, 1.0 where nothing is pruned.
        tokens: tokens that are the reference's, from the first on, and how many there are.
    """

    problem: str
    iou: float
    tokens: tuple[int, int]


def run_case(folder: Path, name: str, bundle: Bundle, device: str, precision: str) -> Found:
    """Runs a case on the device and compares kept tokens and answer with the reference's."""
    case = json.loads((folder / "cases" / f"{name}.json").read_text())
    golden = dict(np.load(folder / "cases" / f"{name}.npz"))
    found = golden_cases.candidate_arrays(folder, case, golden, bundle, device)
    iou = _iou(found["keep_mask"], golden["keep_mask"]) if "keep_mask" in golden else 1.0
    ids, expected = found["generated_ids"].reshape(-1), golden["generated_ids"].reshape(-1)
    count = min(len(ids), len(expected))
    same = int(np.argmin(np.append(ids[:count] == expected[:count], False)))
    problem = ""
    if same < len(expected):
        logits = np.sort(golden["logits_steps"].reshape(len(expected), -1)[same])
        if logits[-1] - logits[-2] > ROUNDING[precision] * np.abs(logits).max():
            problem = f"token {same} differs, and its logits are not close"
    return Found(problem, iou, (same, len(expected)))


def run_model(folder: Path, device: str, precision: str) -> bool:
    """Exports a model, runs its cases, prints a line for each; returns whether all are as they should be."""
    cases = sorted(path.stem for path in (folder / "cases").glob("*.npz"))
    exact = precision == "fp32" and device != "cuda"
    with tempfile.TemporaryDirectory() as temporary:
        cache = "fp16" if device == "cuda" else precision
        options = ExportOptions(
            str(folder / "base"),
            str(folder / "adapter"),
            dialects=DIALECTS[device],
            precision=Precision.choose(precision, kv_cache=cache),
            tokenizer=False,
            trace=True,
            certify="off",
        )
        bundle = Bundle.open(export(options, Path(temporary) / "bundle"))
        if device != "cuda":
            build(bundle.folder, device)
        good, ious = True, []
        for name in cases:
            if exact:
                result = golden_cases.run_case(folder, name, bundle, device)
                found = Found("; ".join(result.problems), 1.0, (0, 0))
                words = f"{result.compared} arrays, max abs difference {result.worst:.2e} ({result.worst_key})"
            else:
                found = run_case(folder, name, bundle, device, precision)
                words = f"IoU of kept tokens {found.iou:.3f}, {found.tokens[0]} of {found.tokens[1]} tokens"
            good &= not found.problem
            ious.append(found.iou)
            print(f"{'FAIL' if found.problem else 'ok  '} {folder.name}/{name} {precision}: {words} {found.problem}")
        mean = float(np.mean(ious))
        print(f"{folder.name} {precision}: IoU {mean:.3f} on average")
    return good and mean >= LEAST_IOU


def build(folder: Path, device: str) -> None:
    """Builds the engines of a bundle."""
    from glimpse_export.engines.builder import build_engines
    from glimpse_export.engines.options import BuildOptions

    build_engines(folder, BuildOptions(device, plugin=False), print)


def _iou(found: np.ndarray, expected: np.ndarray) -> float:
    kept, wanted = found.reshape(-1).astype(bool), expected.reshape(-1).astype(bool)
    either = int((kept | wanted).sum())
    return float((kept & wanted).sum() / either) if either else 1.0


def main(words: list[str] | None = None) -> int:
    """Runs all folders in all precisions; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--device", choices=tuple(DIALECTS), required=True)
    parser.add_argument(
        "--precision", choices=PRECISIONS, action="append", help="may be given several times; all of them"
    )
    asked = parser.parse_args(words)
    try:
        open_backend(asked.device).close()
    except BackendError as error:
        print(f"This cannot run on the device {asked.device}: {error}", file=sys.stderr)
        return NO_GPU
    good = True
    for folder in asked.folders:
        for precision in asked.precision or PRECISIONS:
            try:
                good &= run_model(folder, asked.device, precision)
            except GlimpseError as error:
                print(f"FAIL {folder} {precision}: {error}")
                good = False
    print("passed" if good else "failed")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
