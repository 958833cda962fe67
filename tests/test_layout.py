"""The shape of the project: packages, public names, weight of imports, links of the documents."""

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import glimpse_export
import glimpse_runtime

SOURCE_ROOTS = ("runtime", "export", "models", "plugins")
LIGHT = {"numpy", "onnxruntime", "tensorrt", "tokenizers", "PIL", "click"}
HUB_FOLDER = "hub"
# What the backends of GPUs import when they are opened.
ON_A_GPU = {"device": {"cuda"}, "compaction": {"glimpse_plugins"}}
NAMESPACES = {"optimum.commands.register"}  # optimum's; an __init__.py there would break its other parts
MIDDLEWARE = {"cv2", "rclpy", "sensor_msgs", "std_msgs", "dora", "pyarrow"}


def read_setup() -> configparser.ConfigParser:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup


def test_every_package_on_disk_is_listed() -> None:
    on_disk = {
        ".".join(path.parent.relative_to(ROOT / root).parts)
        for root in SOURCE_ROOTS
        for path in (ROOT / root).rglob("__init__.py")
    }
    assert on_disk | NAMESPACES == set(read_setup()["options"]["packages"].split())


def test_every_package_is_typed() -> None:
    for root in SOURCE_ROOTS:
        for package in (path for path in (ROOT / root).iterdir() if (path / "__init__.py").exists()):
            assert (package / "py.typed").exists(), package


@pytest.mark.parametrize("package", [glimpse_runtime, glimpse_export])
def test_public_names_exist_and_are_all(package: object) -> None:
    if package is glimpse_export:
        pytest.importorskip("onnx_ir")
        pytest.importorskip("ml_dtypes")
    names = list(package.__all__)  # type: ignore[attr-defined]
    assert names == sorted(names, key=lambda name: (name.startswith("__"), name)) or names == sorted(names)
    for name in names:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        package.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_the_runtime_imports_only_light_libraries() -> None:
    allowed = LIGHT | {"glimpse_runtime", "glimpse_models"} | set(sys.stdlib_module_names)
    for path in (ROOT / "runtime").rglob("*.py"):
        is_adapter = path.parent.name == "adapters"
        tree = ast.parse(path.read_text())
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        lazy = {inner for function in functions for inner in ast.walk(function)}
        for node in ast.walk(tree):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                found = [node.module or ""]
            for name in found:
                here = allowed | MIDDLEWARE if is_adapter else allowed
                if path.parent.name == HUB_FOLDER and node in lazy:
                    here = here | {"huggingface_hub"}
                if node in lazy:
                    here = here | ON_A_GPU.get(path.stem, set())
                assert name.split(".")[0] in here, f"{path}: imports {name}"
                assert is_adapter or "adapters" not in name, f"{path}: the core imports {name}"


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


def test_links_of_the_documents_lead_somewhere() -> None:
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    for document in documents:
        for link in re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8")):
            if not link.startswith("http"):
                assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_documented_options_exist() -> None:
    from glimpse_export.cli.export import run as export_command
    from glimpse_runtime.cli.inspect import run as inspect_command
    from glimpse_runtime.cli.run import run as run_command

    commands = (run_command, export_command, inspect_command)
    known = {option for command in commands for p in command.params for option in p.opts}
    known |= {"--help", "--extra"}
    text = "\n".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    for block in re.findall(r"glimpse-(?:run|export|inspect)[^\n`]*", text):
        for option in re.findall(r"(--[a-z][a-z-]+)", block):
            assert option in known, f"{option} in: {block}"


def test_version_is_in_the_changelog() -> None:
    assert f"## [{glimpse_runtime.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_pocket_bundle_is_small_enough_for_the_wheel() -> None:
    folder = ROOT / "models" / "glimpse_models" / "pocket"
    size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size_bytes < 30e6


def test_the_packaged_bundle_is_the_export_of_the_packaged_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("onnx_ir")
    pytest.importorskip("torch")
    from glimpse_export import ExportOptions, export
    from glimpse_runtime.bundle.bundle import Bundle
    from glimpse_runtime.bundle.packaged import packaged_bundle

    packaged = Bundle.open(packaged_bundle()).manifest
    fresh = Bundle.open(export(ExportOptions("pocket", certify="off"), tmp_path / "pocket")).manifest
    for name in fresh.files:
        if not name.endswith(".onnx"):  # how a graph is serialised may differ between versions of onnx_ir
            assert fresh.files[name] == packaged.files[name], f"{name}: run make bundle"
    for part in ("format_version", "model", "text", "vision", "glimpse", "scorer", "pruning", "tokens", "prompt"):
        assert getattr(fresh, part) == getattr(packaged, part), f"{part}: run make bundle"
    assert fresh.graphs == packaged.graphs
