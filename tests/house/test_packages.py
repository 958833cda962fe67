"""The packages as they ship: listed, typed, with the public names that they state and the bundle of pocket."""

import ast
import configparser
from pathlib import Path

import pytest
from support.places import ROOT, SOURCE_ROOTS

import glimpse_export
import glimpse_runtime

NAMESPACES = {"optimum.commands.register"}  # optimum's; an __init__.py there would break its other parts


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


@pytest.mark.parametrize("package", ["runtime/glimpse_runtime", "export/glimpse_export", "models/glimpse_models"])
def test_what_a_package_imports_for_its_users_is_what_it_states(package: str) -> None:
    """Also what it imports only when it is asked for, of which type checkers read a list of its own."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    stated = next(
        set(ast.literal_eval(node.value))
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    assert imported.keys() - {"TYPE_CHECKING", "lazy_names"} == stated
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "lazy_names":
            late = ast.literal_eval(call.args[1])
            assert late.items() <= imported.items()


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
