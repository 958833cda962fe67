"""Fixtures that several test files share."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hub_server import Hub, serving

if TYPE_CHECKING:
    from glimpse_export import ExportOptions

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "modelA"
STAGES = ("embedding", "vision", "score", "text")
"""The stages of an export that hold weights, in the order in which they are built."""

# Bundles are marked as verified in a cache folder; tests must not touch the user's.
os.environ["GLIMPSE_CACHE"] = str(Path(__file__).parent / ".cache")


@pytest.fixture(scope="session")
def golden() -> Path:
    """A model folder: base/, adapter/, cases/, images/."""
    return GOLDEN


@pytest.fixture(scope="session")
def golden_bundle(tmp_path_factory: pytest.TempPathFactory, golden: Path) -> Path:
    """The golden model as a bundle without a tokenizer."""
    pytest.importorskip("onnx_ir")
    pytest.importorskip("torch")
    from glimpse_export import export

    out = tmp_path_factory.mktemp("golden") / "bundle"
    return export(options(golden), out)


@pytest.fixture
def model(golden: Path, tmp_path: Path) -> Path:
    """A copy of the golden model that a test may change."""
    for part in ("base", "adapter"):
        shutil.copytree(golden / part, tmp_path / "model" / part)
    return tmp_path / "model"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where an export of the test's own may write its bundle."""
    return tmp_path / "bundle"


@pytest.fixture(scope="session")
def pocket() -> Iterator[object]:
    """A session of the packaged pocket model."""
    from glimpse_runtime import load

    with load() as vlm:
        yield vlm


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A stand-in of the Hugging Face hub, without repositories."""
    with serving() as hub:
        yield hub


@pytest.fixture
def photo() -> np.ndarray:
    """A small picture with structure, (168, 224, 3) uint8."""
    rows, columns = np.mgrid[:168, :224]
    return np.stack([rows, columns, (rows * columns) % 251], axis=-1).astype(np.uint8)


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Runs the ``main`` of a module of this checkout as a command, with its words."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / root) for root in ("runtime", "export", "models", "plugins")),
        "GLIMPSE_CACHE": str(tmp_path_factory.mktemp("cache")),
    }
    environment.pop("GLIMPSE_BUNDLE", None)

    def run(module: str, *words: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", f"from {module} import main; main()", *map(str, words)],
            capture_output=True,
            text=True,
            env={**environment, **changes},
            timeout=120,
            check=False,
        )

    return run


def assert_one_clear_line(done: subprocess.CompletedProcess[str], *parts: str, code: int = 1) -> None:
    """A failed command: the exit code, no answer, no traceback, one line of error that holds ``parts``."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.stderr
    for part in parts:
        assert part in errors[0]


def uncertified(place: Path) -> Path:
    """A copy of the packaged bundle without its certificate."""
    from glimpse_runtime.bundle.packaged import packaged_bundle

    shutil.copytree(packaged_bundle(), place)
    (place / "certificate.json").unlink()
    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["files"]["certificate.json"]
    (place / "manifest.json").write_text(json.dumps(manifest))
    return place


def options(model: Path, **changes: Any) -> "ExportOptions":
    """An export of a model folder, without tokenizer and certificate where nothing else is said."""
    from glimpse_export import ExportOptions

    return ExportOptions(
        str(model / "base"), str(model / "adapter"), **{"tokenizer": False, "certify": "off", **changes}
    )


def edit_json(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text())
    for key, value in changes.items():
        data.pop(key, None) if value is ... else data.update({key: value})
    path.write_text(json.dumps(data))


def edit_tensors(path: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def leftovers(folder: Path) -> list[str]:
    """Hidden files and folders."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


FAKE_TENSORRT = Path(__file__).parent / "fake_tensorrt"


@pytest.fixture
def fake_tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Makes ``tensorrt`` and ``tensorrt_rtx`` stand-ins, here and in processes started from here."""
    from glimpse_runtime.engines import flavours

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] in ("fake_trt", "tensorrt", "tensorrt_rtx")]:
            del sys.modules[name]

    real = {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("tensorrt", "tensorrt_rtx")}
    forget()
    monkeypatch.syspath_prepend(str(FAKE_TENSORRT))
    monkeypatch.setattr(flavours, "repair_rtx_wheel", lambda: None)
    yield monkeypatch
    forget()
    sys.modules.update(real)


def work_of(out: Path) -> Path:
    """Where an export to ``out`` keeps its work."""
    return out.parent / f".{out.name}.work"


@pytest.fixture(scope="session")
def engine_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pocket in the dialects that TensorRT imports, in float16."""
    pytest.importorskip("onnx_ir")
    pytest.importorskip("torch")
    from glimpse_export import ExportOptions, export
    from glimpse_export.weights.precision import Precision

    precision = Precision.choose("fp16", gpu=True)
    made = ExportOptions("pocket", dialects=("opset24", "plain"), precision=precision, certify="off")
    return export(made, tmp_path_factory.mktemp("engines") / "pocket")


@pytest.fixture(scope="session")
def traced_bundle(tmp_path_factory: pytest.TempPathFactory, golden: Path) -> Path:
    """The golden model in the dialects that TensorRT imports, with the outputs that tracing adds."""
    pytest.importorskip("onnx_ir")
    pytest.importorskip("torch")
    from glimpse_export import export

    made = options(golden, dialects=("opset24", "plain"), trace=True)
    return export(made, tmp_path_factory.mktemp("traced") / "bundle")
