"""Checkpoints from the hub, against a stand-in of it and against its cache layout: pinned, offline, resumed."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from stand_ins.hub_server import Hub, files_of
from support.commands import Command
from support.places import ROOT
from support.slow import slow

pytest.importorskip("huggingface_hub")

EXPORT = "glimpse_export.cli.export"
LARGE_BYTES = 30 << 20
RESOLVE = """
import json, sys
from glimpse_export.source.resolve import resolve
found = resolve(**json.loads(sys.argv[1]))
folders, sources = (found.base, found.adapter), (found.base_source, found.adapter_source)
print(json.dumps([*map(str, folders), *sources, found.name, str(found.lora), found.lora_source]))
"""


def start(environment: dict[str, str], **arguments: str) -> subprocess.Popen[str]:
    """Calls ``resolve`` in a process of its own: the client library reads its variables when it is imported."""
    path = os.pathsep.join(str(ROOT / root) for root in ("runtime", "export", "models"))
    return subprocess.Popen(
        [sys.executable, "-c", RESOLVE, json.dumps(arguments)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def resolve(environment: dict[str, str], **arguments: str) -> list[str]:
    out, errors = start(environment, **arguments).communicate(timeout=60)
    assert out, errors
    return list(json.loads(out))


def refusal(environment: dict[str, str], **arguments: str) -> str:
    out, errors = start(environment, **arguments).communicate(timeout=60)
    assert not out
    last = errors.strip().splitlines()[-1]
    assert last.startswith("glimpse_export.errors.ModelNotFoundError: "), errors
    return last


def cached(home: Path, repository: str, files: dict[str, bytes], ref: str = "main") -> str:
    """Writes a repository as the hub's client leaves it in its cache, and returns its commit."""
    folder = home / "hub" / ("models--" + repository.replace("/", "--"))
    commit = hashlib.sha1(json.dumps(sorted(files)).encode() + ref.encode()).hexdigest()
    snapshot = folder / "snapshots" / commit
    for part in (snapshot, folder / "blobs", folder / "refs"):
        part.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / ref).write_text(commit)
    for name, content in files.items():
        digest = hashlib.sha256(content).hexdigest()
        (folder / "blobs" / digest).write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{digest}")
    return commit


def test_an_export_by_hub_ids(hub: Hub, command: Command, golden: Path, golden_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx_ir")
    pytest.importorskip("torch")
    base = hub.add("some/base", {**files_of(golden / "base"), "README.md": b"read me", "weights.bin": b"old form"})
    adapter = hub.add("some/adapter", {**files_of(golden / "adapter"), "README.md": b"read me"})
    environment = hub.environment(tmp_path / "home")
    words = ("--model", "some/base", "--adapter", f"some/adapter@{adapter}", "--no-tokenizer", "--certify", "off")
    done = command(EXPORT, *words, "--out", tmp_path / "out", **environment)
    assert done.returncode == 0, done.stderr
    assert "licence of the weights: unknown: see the checkpoint's model card" in done.stderr
    assert not hub.asked("README") + hub.asked("weights.bin")
    found, expected = (
        json.loads((folder / "manifest.json").read_text()) for folder in (tmp_path / "out", golden_bundle)
    )
    assert found["files"] == expected["files"]
    assert found["model"]["source"]["base"] == f"some/base@{base}"
    assert found["model"]["source"]["adapter"] == f"some/adapter@{adapter}"
    asked = len(hub.requests)
    done = command(EXPORT, *words, "--dry-run", **environment, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert len(hub.requests) == asked


@slow
def test_a_revision_is_pinned(hub: Hub, tmp_path: Path) -> None:
    files = {"config.json": b"{}", "new_modules_gp.pt": b"adapter", "model.safetensors": b"old"}
    files["pruner.sdtp.npz"] = b"weights of a method"
    old = hub.add("some/model", files, branch="v1")
    new = hub.add("some/model", {**files, "model.safetensors": b"new"})
    environment = hub.environment(tmp_path / "home")
    for arguments, commit in (
        ({"model": "some/model"}, new),
        ({"model": "some/model", "revision": "v1"}, old),
        ({"model": "some/model@v1"}, old),
        ({"model": "some/model", "revision": old}, old),
        ({"model": "some/model", "adapter": "some/model@v1"}, new),
    ):
        base, adapter, base_source, adapter_source, name, *lora = resolve(environment, **arguments)
        assert Path(base).name == commit, arguments
        assert (Path(base) / "model.safetensors").read_bytes() == (b"new" if commit == new else b"old")
        assert (base_source, name) == (f"some/model@{commit}", "model")
        assert (Path(adapter) / "new_modules_gp.pt").is_file()
        assert (Path(adapter) / "pruner.sdtp.npz").is_file()
        assert adapter_source == f"some/model@{old if 'adapter' in arguments else commit}"
        assert lora == ["None", None]
    assert "the repository has no revision v9" in refusal(environment, model="some/model@v9")
    assert "names a revision already" in refusal(environment, model="some/model@v1", revision="main")
    assert "but pocket" not in refusal(environment, model="nobody/nothing")
    assert "is on this machine" in refusal(environment, model="pocket", revision="main")
    assert "is on this machine" in refusal(environment, model=str(tmp_path), revision="main")


@pytest.mark.slow
def test_a_lora_comes_before_the_base_and_nothing_else_with_it(hub: Hub, tmp_path: Path) -> None:
    hub.add("some/model", {"config.json": b"{}", "new_modules_gp.pt": b"adapter", "model.safetensors": b"weights"})
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"old", "adapter_model.bin": b"pickle"}
    old = hub.add("some/lora", {**files, "optimizer.pt": b"state"}, branch="v1")
    new = hub.add("some/lora", {**files, "adapter_model.safetensors": b"new"})
    environment = hub.environment(tmp_path)
    missing = refusal(environment, model="some/model", lora="some/none")
    assert "cannot download some/none: there is no such repository" in missing
    assert not hub.asked("some/model", "model.safetensors")
    for lora, commit, content in (("some/lora", new, b"new"), ("some/lora@v1", old, b"old")):
        *_, place, source = resolve(environment, model="some/model", revision="main", lora=lora)
        assert source == f"some/lora@{commit}"
        assert {path.name for path in Path(place).iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
        assert (Path(place) / "adapter_model.safetensors").read_bytes() == content
    assert "the repository has no revision v9" in refusal(environment, model="some/model", lora="some/lora@v9")


def test_facts_pin_their_revisions(monkeypatch: pytest.MonkeyPatch) -> None:
    from glimpse_export.source import resolve as module
    from glimpse_models import MODELS
    from glimpse_runtime.bundle.hub.name import HubId

    facts = dataclasses.replace(
        MODELS["qwen2.5-vl-3b"],
        name="named",
        base="some/base",
        adapter="some/adapter",
        revision="a1",
        adapter_revision="b2",
    )
    asked: list[HubId] = []

    def fetch(hub_id: HubId, patterns: Sequence[str], first_of: Sequence[str]) -> Path:
        asked.append(hub_id)
        return Path("commit")

    monkeypatch.setattr(module, "find", lambda name: facts)
    monkeypatch.setattr(module, "fetch_snapshot", fetch)
    module.resolve("named")
    module.resolve("named", revision="c3")
    module.resolve("named", adapter="other/adapter")
    assert list(map(str, asked)) == [
        *("some/adapter@b2", "some/base@a1", "some/adapter@b2", "some/base@c3", "other/adapter", "some/base@a1")
    ]
    asked.clear()
    facts = dataclasses.replace(facts, lora="some/lora", lora_revision="d4")
    module.resolve("named")
    module.resolve("named", lora="other/lora@e5")
    module.resolve("named", revision="c3")
    assert list(map(str, asked)) == [
        *("some/adapter@b2", "some/lora@d4", "some/base@a1", "some/adapter@b2", "other/lora@e5", "some/base@a1"),
        *("some/adapter@b2", "some/lora@d4", "some/base@c3"),
    ]


def test_a_cache_alone_is_enough(tmp_path: Path) -> None:
    """``HF_HOME`` of another machine, copied to one that never sees the network."""
    base = cached(tmp_path, "some/base", {"config.json": b"{}", "model.safetensors": b"weights"})
    adapter = cached(tmp_path, "some/adapter", {"config.json": b"{}", "new_modules_gp.pt": b"adapter"})
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    found = resolve(environment, model="some/base", adapter="some/adapter")
    assert [Path(place).name for place in found[:2]] == [base, adapter]
    assert (Path(found[0]) / "model.safetensors").read_bytes() == b"weights"
    resolve(environment, model=f"some/base@{base}", adapter="some/adapter@main")
    missing = refusal(environment, model="some/base@v1", adapter="some/adapter")
    assert "HF_HUB_OFFLINE is set and not all of it is in the cache" in missing
    assert "or give a local folder" in missing


def test_a_model_without_an_adapter_is_refused_before_its_weights_arrive(hub: Hub, tmp_path: Path) -> None:
    hub.add("some/base", {"config.json": b"{}", "model.safetensors": bytes(2 << 20)})
    environment = hub.environment(tmp_path)
    assert "comes without a GlimpsePrune adapter" in refusal(environment, model="some/base")
    assert not hub.asked("model.safetensors") + hub.asked("cdn")
    missing = refusal(environment, model="some/base", adapter="some/adapter")
    assert "cannot download some/adapter: there is no such repository" in missing


def with_large_shard(hub: Hub) -> bytes:
    content = np.random.default_rng(1).bytes(LARGE_BYTES)
    files = {"config.json": b"{}", "new_modules_gp.pt": b"adapter"}
    hub.add("some/model", {**files, "model-00001.safetensors": content, "model-00002.safetensors": b"small"})
    return content


def ranges(hub: Hub) -> list[str | None]:
    return [seen.range for seen in hub.asked("cdn")]


@slow
def test_a_broken_download_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    content = with_large_shard(hub)
    environment = hub.environment(tmp_path)
    hub.cut_after_bytes = 22 << 20
    assert "run it again, it goes on from what has arrived" in refusal(environment, model="some/model")
    hub.cut_after_bytes = None
    hub.requests.clear()
    base, *_ = resolve(environment, model="some/model")
    assert (Path(base) / "model-00001.safetensors").read_bytes() == content
    assert ranges(hub) == [f"bytes={20 << 20}-"]  # the client writes pieces of 10 MiB
    hub.requests.clear()
    resolve(environment, model="some/model")
    assert ranges(hub) == []


def test_a_killed_download_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    content = with_large_shard(hub)
    environment = hub.environment(tmp_path)
    hub.cut_after_bytes, hub.stall = 22 << 20, True
    process = start(environment, model="some/model")
    blobs = tmp_path / "hub" / "models--some--model" / "blobs"
    deadline = time.monotonic() + 60
    while sum(path.stat().st_size for path in blobs.glob("*.incomplete")) < 20 << 20:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hub.cut_after_bytes, hub.stall = None, False
    hub.requests.clear()
    base, *_ = resolve(environment, model="some/model")
    assert (Path(base) / "model-00001.safetensors").read_bytes() == content
    assert ranges(hub) == [f"bytes={20 << 20}-"]
    assert not list(blobs.glob("*.incomplete"))
