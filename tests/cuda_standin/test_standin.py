"""Where onnxruntime's own CUDA provider puts every node, and what a decode step costs; nothing is computed."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from support.bundles import write_manifest
from support.places import GOLDEN

from cuda_standin.measure import Asked, Environment
from glimpse_export import ExportOptions, export
from glimpse_export.weights.precision import Precision

pytestmark = pytest.mark.standin

VENVS = os.environ.get("STANDIN_VENVS", "")
VERSIONS = sorted(path.name for path in Path(VENVS).glob("*") if path.is_dir()) if VENVS else []
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")
FAMILIES = ("pocket", "llava")

# Launches of a decode step of six layers, of the worst of the versions.
LAUNCHES = {
    ("pocket", "fp32"): 154,
    ("pocket", "fp16"): 294,
    ("pocket", "bf16"): 154,
    ("pocket", "int8"): 154,
    ("pocket", "int4"): 154,
    ("llava", "fp32"): 134,
    ("llava", "fp16"): 262,
    ("llava", "bf16"): 134,
    ("llava", "int8"): 177,
    ("llava", "int4"): 150,
}
TO_DEVICE = 8  # numbers and a row for each of the two graphs
TO_HOST = 1  # logits
WAITS = 1  # for them

Measured = dict[tuple[str, str, str], Asked]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Bundles for the device cuda, by family and precision."""
    folder, found = tmp_path_factory.mktemp("bundles"), {}
    llava = GOLDEN.parent / "llavaA"
    models = {
        "pocket": ExportOptions("pocket", certify="off"),
        "llava": ExportOptions(str(llava / "base"), str(llava / "adapter"), tokenizer=False, certify="off"),
    }
    for family, options in models.items():
        for name in PRECISIONS:
            precision = Precision.choose(name, kv_cache="fp16")
            chosen = replace(options, precision=precision, target="ort-cuda")
            found[family, name] = export(chosen, folder / f"{family}-{name}")
    return found


@pytest.fixture(scope="module")
def environments() -> dict[str, Environment]:
    assert VERSIONS, "STANDIN_VENVS holds no environment; run make test-cuda-standin"
    return {version: Environment((Path(VENVS) / version).absolute()) for version in VERSIONS}


@pytest.fixture(scope="module")
def measured() -> Iterator[Measured]:
    """What was measured; it is printed at the end."""
    found: Measured = {}
    yield found
    print(
        f"\n{'':24}{'CPU':>5}{'Memcpy':>8} |{'launches':>10}{'to GPU':>8}{'to host':>9}{'waits':>7} | of a decode step"
    )
    for (version, family, precision), asked in found.items():
        step = asked.step
        print(
            f"{version:8}{family:8}{precision:8}{len(asked.cpu_nodes):5}{asked.memcpy_nodes:8} |{step['launches']:10}"
            f"{step['to_device']:8}{step['to_host']:9}{step['waits']:7}"
        )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("version", VERSIONS or ["none"])
def test_everything_is_on_the_gpu_and_a_step_stays_below_its_ceilings(
    version: str,
    family: str,
    precision: str,
    environments: dict[str, Environment],
    bundles: dict[tuple[str, str], Path],
    measured: Measured,
) -> None:
    asked = measured[version, family, precision] = environments[version].measure(bundles[family, precision])
    assert dict(Counter(asked.cpu_nodes)) == {}
    assert asked.memcpy_nodes == 0
    assert asked.step["launches"] <= LAUNCHES[family, precision]
    assert asked.step["to_device"] <= TO_DEVICE
    assert asked.step["to_host"] <= TO_HOST
    assert asked.step["waits"] <= WAITS


def test_a_node_without_a_kernel_is_refused_by_its_name(
    environments: dict[str, Environment], bundles: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    """Opset 21 has operators that came to the CUDA provider with version 1.29."""
    bundle = shutil.copytree(bundles["pocket", "fp16"], tmp_path / "newer")
    graph = bundle / "lower.onnx"
    model = onnx.load(graph, load_external_data=False)
    next(opset for opset in model.opset_import if not opset.domain).version = 21
    model.ir_version = 10
    graph.write_bytes(model.SerializeToString())
    manifest = json.loads((bundle / "manifest.json").read_text())
    content = graph.read_bytes()
    manifest["files"][graph.name] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_manifest(bundle, manifest)
    with pytest.raises(RuntimeError, match=r"stage lower: \S+ 1.26.0 would run ReduceMax \(ReduceMax_\d+\)"):
        environments["1.26.0"].measure(bundle)
    with pytest.raises(RuntimeError, match=r"stage lower: \S+ 1.23.2 would run some nodes of it on the CPU"):
        environments["1.23.2"].measure(bundle)


@pytest.mark.parametrize("capability", ["75", "90", "120"])
def test_attention_needs_no_plan_of_cudnn(
    environments: dict[str, Environment],
    bundles: dict[tuple[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capability: str,
) -> None:
    """Where the provider asks cuDNN for one it fails here: the stand-in has none."""
    monkeypatch.setenv("STANDIN_SM", capability)
    asked = environments["1.31.1"].measure(bundles["pocket", "fp16"])
    kernels = {**asked.ask["kernels"], **asked.step["kernels"]}
    assert any("attention_kernel_batched_impl" in kernel for kernel in kernels)  # vision, memory-efficient in float32
    assert not any("UnfusedSoftmax" in kernel for kernel in kernels)
