"""The cache of engines: what an engine depends on, and that nothing else is ever loaded."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.manifest import FileSpec, Profile
from glimpse_runtime.bundle.packaged import packaged_bundle
from glimpse_runtime.engines import store
from glimpse_runtime.engines.flavours import flavour_of
from glimpse_runtime.engines.key import EngineKey, Setting, engine_key
from glimpse_runtime.engines.store import EngineRecord, engine_file, find_engine, record_file, require_engine
from glimpse_runtime.errors import BackendError
from glimpse_runtime.files import hashing

SETTING = Setting(flavour_of("tensorrt", "10.3.0"), "10.3.0", "Orin (8.7)")
CONTENT = b"an engine" * 1000


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def key_of(bundle: Bundle, stage: str = "lower", **changes: object) -> EngineKey:
    return engine_key(bundle, stage, bundle.manifest.stages_of("ort")[stage], dataclasses.replace(SETTING, **changes))


@pytest.fixture
def key() -> EngineKey:
    return key_of(Bundle.open(packaged_bundle()))


def put(key: EngineKey, content: bytes = CONTENT) -> Path:
    """Puts an engine into the cache as a build does."""
    path = engine_file(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    spec = FileSpec(len(content), __import__("hashlib").sha256(content).hexdigest())
    store.write_record(EngineRecord(key, spec, ("wide",), {"CAST": 3}, {}, {"parse": 0.1, "build": 2.0}, 1 << 30))
    return path


def test_a_key_names_all_it_depends_on(key: EngineKey) -> None:
    manifest = Bundle.open(packaged_bundle()).manifest
    assert key.graph == manifest.files["lower.onnx"].sha256
    assert dict(key.weights) == {"text.data": manifest.files["text.data"].sha256}
    assert key.tensorrt == "tensorrt 10.3.0"
    assert key.gpu == "Orin (8.7)"
    assert key.profiles["decode"]["rows"] == Profile(1, 1, 1)
    assert key.compaction == ""


@pytest.mark.parametrize(
    "change", [{"gpu": "Orin (8.9)"}, {"version": "10.3.1"}, {"flavour": flavour_of("tensorrt-rtx", "1.7")}]
)
def test_another_gpu_or_version_is_another_engine(key: EngineKey, change: dict[str, object]) -> None:
    assert key_of(Bundle.open(packaged_bundle()), **change).name != key.name


def test_every_part_of_a_key_counts(key: EngineKey) -> None:
    changes: dict[str, object] = dict.fromkeys(("stage", "graph", "tensorrt", "gpu", "platform"), "other")
    changes |= {"weights": {"text.data": "0"}, "profiles": {}, "compaction": "function", "builder": "2"}
    assert set(changes) == {field.name for field in dataclasses.fields(EngineKey)}
    names = {dataclasses.replace(key, **{name: value}).name for name, value in changes.items()}
    assert len(names | {key.name}) == len(changes) + 1


def test_the_plugin_counts_only_where_it_is_used(tmp_path: Path) -> None:
    assert key_of(Bundle.open(packaged_bundle()), plugin="abc") == key_of(Bundle.open(packaged_bundle()))
    spec = Bundle.open(packaged_bundle()).manifest.stages_of("ort")["lower"]
    folder = tmp_path / "bundle"
    shutil.copytree(Bundle.open(packaged_bundle()).folder, folder)
    (folder / spec.file).write_bytes(b"CompactMany")
    bundle = Bundle(folder, Bundle.open(packaged_bundle()).manifest)
    plugin, function = key_of(bundle, plugin="abc"), key_of(bundle)
    assert plugin.compaction == "plugin abc"
    assert function.compaction == "function"
    assert key_of(bundle, plugin="abd").name != plugin.name


def test_a_larger_context_is_another_engine(key: EngineKey) -> None:
    bundle = Bundle.open(packaged_bundle())
    smaller = {**bundle.manifest.profiles, "rows": Profile(1, 100, 200)}
    changed = Bundle(bundle.folder, dataclasses.replace(bundle.manifest, profiles=smaller))
    assert key_of(changed).name != key.name


def test_an_engine_is_found_again(key: EngineKey) -> None:
    assert find_engine(key) is None
    path = put(key)
    found = find_engine(key)
    assert found is not None
    assert found.path == path
    assert found.record.key == key
    assert found.record.seconds == {"parse": 0.1, "build": 2.0}
    assert found.record.profiles == ("wide",)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(CONTENT[:-1]),
        lambda path: path.write_bytes(b"X" + CONTENT[1:]),
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").unlink(),
        lambda path: path.with_suffix(".json").write_text("{"),
        lambda path: path.with_suffix(".json").write_bytes(b"\xff\xfe"),
        lambda path: path.with_suffix(".json").write_text("{}"),
    ],
    ids=["cut", "altered", "gone", "no record", "cut record", "no text", "other record"],
)
def test_a_damaged_engine_is_never_loaded(key: EngineKey, damage: object) -> None:
    path = put(key)
    assert find_engine(key) is not None
    damage(path)  # type: ignore[operator]
    assert find_engine(key) is None


def test_an_engine_in_anothers_folder_is_never_loaded(key: EngineKey) -> None:
    """A record of another key under this key's name: a copied cache, or a colliding hash."""
    other = dataclasses.replace(key, gpu="Thor (11.0)")
    path = put(other)
    engine_file(key).parent.mkdir(parents=True)
    for source in path.parent.iterdir():
        shutil.copy(source, engine_file(key).parent)
    assert find_engine(other) is not None
    assert find_engine(key) is None


def test_a_record_that_lies_about_its_key_is_seen(key: EngineKey) -> None:
    put(key)
    data = json.loads(record_file(key).read_text())
    data["key"]["gpu"] = "Thor (11.0)"
    record_file(key).write_text(json.dumps(data))
    assert find_engine(key) is None


def test_content_is_hashed_once(key: EngineKey, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    original = hashing.sha256_of
    monkeypatch.setattr(hashing, "REMEMBERED_FROM_BYTES", 0)
    monkeypatch.setattr(hashing, "sha256_of", lambda path: hashed.append(path) or original(path))
    path = put(key)
    assert find_engine(key) is not None
    assert hashed == [], "the build knows it"
    shutil.copy(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").replace(path)
    assert find_engine(key) is not None
    assert find_engine(key) is not None
    assert len(hashed) == 1, "after the file was replaced"


def test_a_missing_engine_comes_with_the_command(key: EngineKey, tmp_path: Path) -> None:
    with pytest.raises(BackendError) as caught:
        require_engine(key, tmp_path / "qwen3b", "tensorrt")
    assert f"glimpse-export --bundle {tmp_path / 'qwen3b'} --target tensorrt" in str(caught.value)
    assert "'lower' for tensorrt 10.3.0 on Orin (8.7)" in str(caught.value)
    put(key)
    assert require_engine(key, tmp_path, "tensorrt").path == engine_file(key)
