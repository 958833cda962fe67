"""Python's time per decode step, everything but the engines: 36 layers, engines replaced by stubs.

python benchmarks/speed/overhead.py [--steps 2000] [--json]
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Sequence

from glimpse_runtime import Sampling, Session
from glimpse_runtime.arrays import FloatArray
from glimpse_runtime.backends.fake import FakeBackend
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.manifest import Manifest, StageSpec, TensorSpec
from glimpse_runtime.bundle.packaged import packaged_bundle
from glimpse_runtime.steps.pipeline import Pipeline

LAYERS, LOWER = 36, 24
LETTER = 10  # a token that is one byte of text and never ends an answer


def with_layers(stage: StageSpec, layers: range) -> StageSpec:
    """Returns a decoder stage with the cache tensors of other layers."""
    past = next(tensor for tensor in stage.inputs if tensor.name.startswith("past."))
    inputs = [tensor for tensor in stage.inputs if not tensor.name.startswith("past.")]
    outputs = [tensor for tensor in stage.outputs if not tensor.name.startswith("present.")]
    names = [f"{layer}.{part}" for layer in layers for part in ("key", "value")]
    inputs += [TensorSpec(f"past.{name}", past.dtype, past.shape) for name in names]
    outputs += [TensorSpec(f"present.{name}", past.dtype, past.shape) for name in names]
    return StageSpec(stage.file, tuple(inputs), tuple(outputs))


def deep(manifest: Manifest) -> Manifest:
    """Returns the manifest of a model of the same widths with 36 layers."""
    dialect = manifest.dialects[0]
    stages = dict(manifest.stages_of(dialect))
    stages["lower"] = with_layers(stages["lower"], range(LOWER))
    stages["upper"] = with_layers(stages["upper"], range(LOWER, LAYERS))
    text = dataclasses.replace(manifest.text, layers=LAYERS, lower_layers=LOWER)
    return dataclasses.replace(manifest, graphs={dialect: stages}, text=text)


def letters_only(tokens: Sequence[int], logits: FloatArray) -> FloatArray:
    """Makes the stubbed engines' zeros choose a letter."""
    logits[LETTER] = 1.0
    return logits


def measure(steps: int) -> float:
    """Returns the median milliseconds from one token to the next."""
    opened = Bundle.open(packaged_bundle())
    bundle = dataclasses.replace(opened, manifest=deep(opened.manifest))
    times_ms = []
    with Session(bundle, Pipeline(bundle, FakeBackend())) as vlm:
        answer = vlm.ask([], "Hello", max_new_tokens=steps, sampling=Sampling(processors=(letters_only,)))
        last = time.perf_counter()
        for _ in answer:
            now = time.perf_counter()
            times_ms.append((now - last) * 1e3)
            last = now
    assert len(times_ms) > steps // 2
    return statistics.median(times_ms)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = {"python_ms_per_step": measure(options.steps), "layers": LAYERS, "steps": options.steps}
    print(json.dumps(result) if options.json else result)


if __name__ == "__main__":
    main()
