"""No import circle, no arrow from a room to one above it, and nothing heavy in what runs on a robot."""

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest
from rooms import LIGHT, ORDER, family_of, reachable, room_of
from sources import Arrow, arrows, modules
from support.places import ROOT, SOURCE_ROOTS

from glimpse_models.families import FAMILIES

LATE: dict[tuple[str, str], str] = {}
"""Imports inside functions that would close a circle or run upwards, with the reason why each is there."""
LIGHT_LIBRARIES = {"numpy", "onnxruntime", "tensorrt", "tokenizers", "PIL", "click"}
HEAVY_LIBRARIES = {"torch", "onnx", "onnx_ir", "transformers", "safetensors", "ml_dtypes"}
MIDDLEWARE = {"cv2", "rclpy", "sensor_msgs", "std_msgs", "dora", "pyarrow"}
PACKAGES = {"glimpse_runtime", "glimpse_models"}
WHEN_THEY_RUN = {
    "glimpse_runtime.bundle.hub": {"huggingface_hub"},
    "glimpse_runtime.backends.cuda.compaction": {"glimpse_plugins"},
    "glimpse_runtime.backends.cuda.kernel": {"glimpse_plugins"},
}
"""What may be imported inside functions: the extras for the hub and for GPUs."""


def inner() -> Iterator[Arrow]:
    """All arrows between modules of the packages."""
    for module in modules():
        for arrow in arrows(module):
            if arrow.target in modules() and arrow.target != module and (module, arrow.target) not in LATE:
                yield arrow


def test_no_import_circle() -> None:
    targets: dict[str, set[str]] = {module: set() for module in modules()}
    for arrow in inner():
        targets[arrow.source].add(arrow.target)
    while free := [module for module, needs in targets.items() if not needs]:
        for module in free:
            del targets[module]
        for needs in targets.values():
            needs.difference_update(free)
    assert not targets, f"in or above a circle: {', '.join(sorted(targets))}"


def test_every_module_has_a_room() -> None:
    assert {room_of(module) for module in modules()} == set(ORDER)


def test_arrows_run_downwards() -> None:
    upwards = [
        f"{arrow.source}:{arrow.line} ({room_of(arrow.source)}) imports {arrow.target} ({room_of(arrow.target)})"
        for arrow in inner()
        if ORDER[room_of(arrow.source)] < ORDER[room_of(arrow.target)]
    ]
    assert not upwards, "\n".join(upwards)


def test_what_is_excepted_is_there() -> None:
    there = {(arrow.source, arrow.target) for module in modules() for arrow in arrows(module) if arrow.late}
    assert LATE.keys() <= there


def test_the_runtime_imports_only_light_libraries() -> None:
    for module in modules():
        if module.startswith("glimpse_runtime"):
            check_libraries(module, PACKAGES)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.ARCHITECTURE)
def test_the_light_half_of_a_family_imports_only_light_libraries(family: object) -> None:
    own = [module for module in modules() if family_of(module) == family.__name__]  # type: ignore[attr-defined]
    light = [module for module in own if room_of(module) == LIGHT]
    assert light
    for module in light:
        check_libraries(module, PACKAGES)


def check_libraries(module: str, own: set[str]) -> None:
    allowed = LIGHT_LIBRARIES | own | sys.stdlib_module_names
    is_adapter = module.startswith("glimpse_runtime.adapters")
    for arrow in arrows(module):
        here = allowed | MIDDLEWARE if is_adapter else allowed
        if arrow.late:
            here = here.union(*(names for name, names in WHEN_THEY_RUN.items() if f"{module}.".startswith(f"{name}.")))
        where = f"{module}:{arrow.line}"
        assert arrow.target.split(".")[0] in here, f"{where}: imports {arrow.target}"
        assert is_adapter or "adapters" not in arrow.target, f"{where}: the core imports {arrow.target}"


def test_the_runtime_reaches_nothing_heavy() -> None:
    """Also not by way of others: plugins, the registry of models, the light half of a family."""
    starts = [module for module in modules() if module.startswith("glimpse_runtime")]
    starts += [f"{family.__name__}.light.family" for family in FAMILIES]
    for start in starts:
        for module in reachable(start):
            assert not module.startswith("glimpse_export"), f"{start} reaches {module}"
            heavy = {arrow.target.split(".")[0] for arrow in arrows(module)} & HEAVY_LIBRARIES
            assert not heavy, f"{start} reaches {module}, which imports {heavy}"


def test_a_reference_is_independent_of_what_it_judges() -> None:
    """A family's reference imports neither its graph author nor what its light half computes."""
    for family in FAMILIES:
        name = family.__name__
        seen = {module for module in reachable(f"{name}.heavy.reference") if family_of(module) == name}
        assert not [
            module for module in seen if room_of(module) == LIGHT and not module.endswith((".light", ".record"))
        ]
        assert not seen & {f"{name}.heavy.{part}" for part in ("vision", "family")}


def test_an_answer_needs_no_heavy_library() -> None:
    """With the heavy libraries made unimportable, a whole question still gets its answer."""
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnx_ir', 'transformers', 'safetensors', 'huggingface_hub'):\n"
        "    sys.modules[name] = None\n"
        "import numpy as np, glimpse_runtime\n"
        "with glimpse_runtime.load() as vlm:\n"
        "    answer = vlm.ask(np.zeros((56, 56, 3), np.uint8), 'Is there a star?')\n"
        "    print(answer.text is not None and len(answer.token_ids) > 0)\n"
    )
    path = ":".join(str(ROOT / root) for root in SOURCE_ROOTS)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path}, check=False
    )
    assert done.stdout.strip() == "True", done.stderr


def test_arrows_are_seen_wherever_they_stand() -> None:
    """The other tests here see no more than this one."""
    found = {(arrow.target, arrow.late) for arrow in arrows("glimpse_runtime.bundle.locate")}
    assert ("glimpse_runtime.bundle.hub.fetch", True) in found
    assert ("glimpse_runtime.bundle.packaged", False) in found
    source = modules()["glimpse_runtime.inputs.family"].read_text(encoding="utf-8")
    names = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert names - {"PIL"} >= {"glimpse_models.families", "glimpse_runtime.arrays"}
