"""Engines of a real bundle, built with a stand-in of TensorRT."""

import errno
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.bundles import write_manifest

pytest.importorskip("onnx")

from building import build

from glimpse_export.engines import builder
from glimpse_export.engines.build import build as building
from glimpse_export.engines.build.build import build_engine
from glimpse_export.engines.build.job import Job
from glimpse_export.engines.build.writer import write_engine
from glimpse_export.engines.plugin import Plugin
from glimpse_export.errors import BuildError
from glimpse_export.planning.boards import parse_budget
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.manifest import MANIFEST_NAME
from glimpse_runtime.bundle.packaged import packaged_bundle
from glimpse_runtime.engines.flavours import installed
from glimpse_runtime.engines.gpu import Gpu
from glimpse_runtime.engines.store import StoredEngine, find_engine, report_file
from glimpse_runtime.errors import BackendError

pytestmark = pytest.mark.usefixtures("machine")
ORIN = Gpu("Orin", (8, 7), 8 << 30, True)
TURING = Gpu("NVIDIA RTX 2080", (7, 5), 8 << 30, False)
DECODERS = ("lower", "upper")


def content(engine: StoredEngine) -> dict[str, Any]:
    return dict(json.loads(engine.path.read_bytes()))


@pytest.mark.parametrize(
    ("version", "dialect"), [("10.3.0", "plain"), ("10.13.2", "plain"), ("10.15.1", "opset24"), ("11.1.0", "opset24")]
)
def test_every_stage_becomes_an_engine(
    machine: pytest.MonkeyPatch, engine_bundle: Path, version: str, dialect: str
) -> None:
    machine.setenv("FAKE_TENSORRT", version)
    engines, _ = build(engine_bundle)
    manifest = Bundle.open(engine_bundle).manifest
    assert set(engines) == set(manifest.stages_of(dialect)) - {"vision_update"}
    assert set(engines) == {"vision", "lower", "score", "compact", "upper"}
    for stage, engine in engines.items():
        built = content(engine)
        assert built["version"] == version
        assert Path(built["graph"]).name == f"{stage}.{dialect}.onnx"
        assert built["tf32"] is False
        assert engine.record.engine.bytes == engine.path.stat().st_size
        assert find_engine(engine.record.key) == engine
        report = json.loads(report_file(engine.record.key).read_text())
        assert len(report["layers"]) == sum(engine.record.layers.values())


def test_prefill_and_decode_share_the_weights(engine_bundle: Path) -> None:
    engines, _ = build(engine_bundle)
    for stage in DECODERS:
        first, second = content(engines[stage])["profiles"]
        assert engines[stage].record.profiles == ("prefill", "decode")
        assert first["shapes"]["hidden_in"][0] == [1, 2, 128]
        assert first["shapes"]["hidden_in"][2] == [1, 512, 128]
        assert second["shapes"]["hidden_in"] == [[1, 1, 128]] * 3
        assert second["extra_memory_target"] == 0.0
        assert not any(name.startswith("past.") for name in first["shapes"]), "fixed lengths need no range"
    assert len(content(engines["vision"])["profiles"]) == 1


def test_rtx_builds_one_wide_profile_without_a_gpu(machine: pytest.MonkeyPatch, engine_bundle: Path) -> None:
    machine.setattr(builder, "current_gpu", lambda: None)
    engines, said = build(engine_bundle, "tensorrt-rtx")
    for stage in DECODERS:
        (profile,) = content(engines[stage])["profiles"]
        assert profile["shapes"]["hidden_in"][0] == [1, 1, 128]
    assert content(engines["lower"])["capabilities"] == []
    assert any("on compute capability 8.0 and later" in line for line in said)


def test_turing_is_named_to_rtx(machine: pytest.MonkeyPatch, engine_bundle: Path) -> None:
    machine.setattr(builder, "current_gpu", lambda: TURING)
    engines, _ = build(engine_bundle, "tensorrt-rtx")
    assert content(engines["lower"])["capabilities"] == ["SM75"]


def test_the_record_says_which_outputs_are_inputs(engine_bundle: Path) -> None:
    engines, _ = build(engine_bundle)
    for stage in DECODERS:
        expected = {
            tensor.name: tensor.name.replace("present.", "past.")
            for tensor in Bundle.open(engine_bundle).manifest.stages_of("opset24")[stage].outputs
            if tensor.name.startswith("present.")
        }
        assert engines[stage].record.aliases == expected != {}


def test_plain_updates_no_cache_in_place(engine_bundle: Path) -> None:
    engines, _ = build(engine_bundle, dialect="plain")
    assert {stage: engine.record.aliases for stage, engine in engines.items() if engine.record.aliases} == {}


def test_what_is_there_is_not_built_again(engine_bundle: Path, machine: pytest.MonkeyPatch) -> None:
    first, _ = build(engine_bundle)
    machine.setattr(builder, "build_apart", lambda job: pytest.fail("built again"))
    again, said = build(engine_bundle)
    assert again == first
    assert said[-len(first) :] == [f"{stage}: engine is there" for stage in first]


def test_force_builds_again(engine_bundle: Path, machine: pytest.MonkeyPatch) -> None:
    first, _ = build(engine_bundle)
    built: list[str] = []

    def count(job: Job) -> None:
        built.append(job.key.stage)
        build_engine(installed(job.target), job)

    machine.setattr(builder, "build_apart", count)
    build(engine_bundle, force=True)
    assert built == list(first)


def test_only_what_changed_is_built_again(engine_bundle: Path, machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, _ = build(engine_bundle)
    changed = tmp_path / "changed"
    shutil.copytree(engine_bundle, changed)
    manifest = json.loads((changed / MANIFEST_NAME).read_text())
    manifest["profiles"]["patches"]["max"] += 4
    write_manifest(changed, manifest)
    second, _ = build(changed)
    assert [stage for stage in first if second[stage].path != first[stage].path] == ["vision"]


def test_an_altered_engine_is_built_again(engine_bundle: Path) -> None:
    first, _ = build(engine_bundle)
    whole = first["score"].path.read_bytes()
    first["score"].path.write_bytes(whole.replace(b"score", b"SCORE"))
    second, said = build(engine_bundle)
    assert second["score"].path.read_bytes() == whole
    assert [line for line in said if "building" in line] == [
        "score: building for tensorrt 10.15.1 on Orin (8.7)",
    ]


def test_versions_and_gpus_do_not_share_engines(machine: pytest.MonkeyPatch, engine_bundle: Path) -> None:
    first, _ = build(engine_bundle, dialect="plain")
    machine.setattr(builder, "current_gpu", lambda: Gpu("Thor", (11, 0), 128 << 30, True))
    second, _ = build(engine_bundle, dialect="plain")
    assert not {e.path for e in first.values()} & {e.path for e in second.values()}


def test_the_timing_cache_is_kept(machine: pytest.MonkeyPatch, engine_bundle: Path, tmp_path: Path) -> None:
    build(engine_bundle)
    (kept,) = (tmp_path / "cache" / "engines" / "timing").iterdir()
    assert kept.read_bytes() == b"measured"
    kept.write_bytes(b"measured more")
    build(engine_bundle, force=True)
    assert kept.read_bytes() == b"measured more"
    machine.setattr(builder, "current_gpu", lambda: None)
    build(engine_bundle, "tensorrt-rtx")
    assert list((tmp_path / "cache" / "engines" / "timing").iterdir()) == [kept]


@pytest.mark.parametrize("version", ["10.3.0", "10.13.2", "10.15.1"])
def test_compaction_is_the_plugin_or_the_function_as_asked(
    machine: pytest.MonkeyPatch, engine_bundle: Path, version: str
) -> None:
    machine.setenv("FAKE_TENSORRT", version)
    plugin, _ = build(engine_bundle)
    function, _ = build(engine_bundle, plugin=False)
    assert plugin["compact"].record.layers == {"PLUGIN_V3": 1}
    assert plugin["compact"].record.key.compaction == "plugin sources"
    assert content(plugin["compact"])["plugins"] != []
    assert function["compact"].record.key.compaction == "function"
    assert content(function["compact"])["plugins"] == []
    assert [stage for stage in plugin if plugin[stage] != function[stage]] == ["compact"]


def no_compiler(*arguments: object) -> Plugin:
    raise BuildError("the compaction plugin cannot be compiled: no CUDA compiler")


def test_without_a_compiler_the_function_serves_and_it_is_said(
    machine: pytest.MonkeyPatch, engine_bundle: Path
) -> None:
    machine.setattr(builder, "find_plugin", no_compiler)
    engines, said = build(engine_bundle)
    assert engines["compact"].record.key.compaction == "function"
    assert any("no CUDA compiler" in line and "Going on without it" in line for line in said)
    with pytest.raises(BuildError, match="no CUDA compiler"):
        build(engine_bundle, plugin=True)
    machine.setattr(builder, "find_plugin", lambda *arguments: pytest.fail("not asked for"))
    build(engine_bundle, plugin=False)


# Refusals.


def test_a_bundle_without_a_fitting_dialect_names_the_option(machine: pytest.MonkeyPatch) -> None:
    with pytest.raises(BuildError, match=r"has the dialect ort, and TensorRT 10\.15\.1 needs opset24 or plain; export"):
        build(packaged_bundle())
    with pytest.raises(BuildError, match="again with --dialect opset24"):
        build(packaged_bundle())


def test_a_dialect_that_the_version_does_not_import_is_refused(
    machine: pytest.MonkeyPatch, engine_bundle: Path
) -> None:
    machine.setenv("FAKE_TENSORRT", "10.3.0")
    with pytest.raises(BuildError, match=r"TensorRT 10\.3\.0 does not import the dialect opset24, but plain"):
        build(engine_bundle, dialect="opset24")


def test_without_a_gpu_full_tensorrt_builds_nothing(machine: pytest.MonkeyPatch, engine_bundle: Path) -> None:
    machine.setattr(builder, "current_gpu", lambda: None)
    machine.setattr(builder, "find_plugin", lambda *arguments: pytest.fail("compiled a plugin for no GPU"))
    with pytest.raises(BackendError, match="no CUDA device was found"):
        build(engine_bundle)


def test_too_little_memory_refuses_before_anything_is_built(
    machine: pytest.MonkeyPatch, engine_bundle: Path, tmp_path: Path
) -> None:
    machine.setattr(builder, "available_bytes", lambda: 1 << 30)
    with pytest.raises(BuildError, match=r"vision: building this engine would need about 1\.8 GiB of memory"):
        build(engine_bundle)
    assert not list((tmp_path / "cache").rglob("*.engine"))
    build(engine_bundle, budget=parse_budget("8GiB"))


def test_the_builders_last_words_are_in_the_error(machine: pytest.MonkeyPatch, engine_bundle: Path) -> None:
    machine.setenv("FAKE_TENSORRT_FAULT", "build")
    with pytest.raises(BuildError) as caught:
        build(engine_bundle)
    assert str(caught.value).startswith("TensorRT 10.15.1 cannot build an engine of vision.opset24.onnx:")
    assert "Could not find any implementation for node MatMul_9" in str(caught.value)
    assert not list(Path(os.environ["GLIMPSE_CACHE"]).rglob("vision.engine"))


def test_a_tensorrt_that_does_not_start_is_said_so(machine: pytest.MonkeyPatch, engine_bundle: Path) -> None:
    machine.setenv("FAKE_TENSORRT_FAULT", "null")
    with pytest.raises(BuildError, match=r"TensorRT 10\.15\.1 cannot start here; check the GPU and its driver"):
        build(engine_bundle)


def test_a_full_disk_is_said_so(machine: pytest.MonkeyPatch, engine_bundle: Path) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    machine.setattr(building, "write_engine", full)
    with pytest.raises(BuildError, match=r"cannot write .*/engines/.*: No space left on device; .* GLIMPSE_CACHE"):
        build(engine_bundle)


def test_a_full_disk_is_not_lost_in_the_builder(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An exception in TensorRT's own call would be."""

    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Builder:
        def build_serialized_network_to_stream(self, network: object, config: object, writer: Any) -> bool:
            return bool(writer.write(b"engine") == 6)

    with pytest.raises(OSError, match="No space left"):
        write_engine(installed("tensorrt"), Builder(), None, None, Full())


def test_a_cache_that_cannot_be_written_is_said_so(
    machine: pytest.MonkeyPatch, engine_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    machine.setenv("GLIMPSE_CACHE", str(tmp_path / "file"))
    with pytest.raises(BuildError, match=r"cannot write .* another folder for engines in GLIMPSE_CACHE"):
        build(engine_bundle, plugin=False)


# Processes of their own.
