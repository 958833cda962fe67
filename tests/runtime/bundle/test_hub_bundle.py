"""Bundles from the hub, against a stand-in of it: what is downloaded, what is cached, every way it can fail."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from stand_ins.hub_server import Hub, files_of
from support.bundles import hashed, uncertified
from support.commands import Command, assert_one_clear_line
from support.places import ROOT
from support.slow import slow

from glimpse_runtime import BundleFormatError, BundleNotFoundError
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.hub.download import hub_errors
from glimpse_runtime.bundle.hub.name import HubId, parse_hub_id
from glimpse_runtime.bundle.locate import locate
from glimpse_runtime.bundle.packaged import packaged_bundle
from glimpse_runtime.errors import HubError

utils = pytest.importorskip("huggingface_hub.utils")

RUN = "glimpse_runtime.cli.run"
INSPECT = "glimpse_runtime.cli.inspect"
QUESTION = "What colour is the circle?"
LARGE = "more.data"


def with_large_file(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same bundle with one more file, large enough to be resumed."""
    content = np.random.default_rng(0).bytes(30 << 20)
    manifest = json.loads(files["manifest.json"])
    manifest["files"][LARGE] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {**files, "manifest.json": hashed(manifest).encode(), LARGE: content}


@pytest.fixture
def pocket_files(tmp_path: Path) -> dict[str, bytes]:
    return files_of(uncertified(tmp_path / "pocket"))


def test_a_bundle_is_downloaded_once_and_nothing_else_is(
    hub: Hub, command: Command, pocket_files: dict[str, bytes], tmp_path: Path
) -> None:
    commit = hub.add("some/pocket", {**pocket_files, "README.md": b"# pocket", "onnx/old.onnx": b"old"})
    environment = hub.environment(tmp_path / "home")
    here = command(RUN, QUESTION, "--json")
    first = command(RUN, QUESTION, "--bundle", "some/pocket", "--json", **environment)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["answer"] == json.loads(here.stdout)["answer"]
    assert "has no certificate" in first.stderr
    assert "--certify quick" in first.stderr
    snapshot = tmp_path / "home" / "hub" / "models--some--pocket" / "snapshots" / commit
    assert {path.name for path in snapshot.iterdir()} == set(pocket_files)
    assert not hub.asked("README") + hub.asked("old.onnx")
    downloads = len(hub.asked("resolve")) + len(hub.asked("cdn"))
    again = command(RUN, QUESTION, "--bundle", "some/pocket", "--json", **environment)
    assert json.loads(again.stdout)["answer"] == json.loads(first.stdout)["answer"]
    assert len(hub.asked("resolve")) + len(hub.asked("cdn")) == downloads
    asked = len(hub.requests)
    for changes in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        done = command(RUN, QUESTION, "--bundle", "some/pocket", "--json", **{**environment, **changes})
        assert json.loads(done.stdout)["answer"] == json.loads(first.stdout)["answer"], done.stderr
    pinned = command(INSPECT, f"some/pocket@{commit}", "--verify", **environment)
    assert "verified" in pinned.stderr, pinned.stderr
    assert len(hub.requests) == asked


def test_a_revision_is_a_branch_a_tag_or_a_commit(
    hub: Hub, command: Command, pocket_files: dict[str, bytes], tmp_path: Path
) -> None:
    environment = hub.environment(tmp_path / "home")
    manifest = json.loads(pocket_files["manifest.json"])
    manifest["model"]["name"] = "older"
    old = hub.add("some/pocket", {**pocket_files, "manifest.json": hashed(manifest).encode()}, branch="v1")
    hub.add("some/pocket", pocket_files)
    for revision, name in (("", "pocket"), ("@v1", "older"), (f"@{old}", "older"), ("@main", "pocket")):
        done = command(INSPECT, f"some/pocket{revision}", "--json", **environment)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["model"]["name"] == name
    hub.add("some/pocket", {**pocket_files, "certificate.json": b"{}"})
    done = command(INSPECT, "some/pocket", **environment)
    assert_one_clear_line(done, "certificate.json has certificate version None")


def test_failures_say_what_to_do(hub: Hub, command: Command, pocket_files: dict[str, bytes], tmp_path: Path) -> None:
    environment = hub.environment(tmp_path / "home")
    hub.add("some/pocket", pocket_files)
    hub.add("some/dataset", {"data.csv": b"1,2"})
    for name, part in (
        ("some/thing", "there is no such repository, or it is private"),
        ("some/pocket@v9", "the repository has no revision v9"),
        ("some/dataset", "some/dataset is not a bundle: it has no manifest.json"),
    ):
        done = command(RUN, QUESTION, "--bundle", name, **environment)
        assert_one_clear_line(done, f"there is no folder '{name}'", part)
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    asked = len(hub.requests)
    done = command(RUN, QUESTION, "--bundle", "some/pocket", **offline)
    assert_one_clear_line(done, "HF_HUB_OFFLINE is set", "run it once without")
    assert len(hub.requests) == asked


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (utils.LocalEntryNotFoundError("no"), "cannot be reached and not all of it is in the cache"),
        (utils.HFValidationError("Cannot have --"), "the hub has no names of this form"),
        (OSError(28, "No space left on device"), "no space is left"),
        (TimeoutError("slow"), "TimeoutError: slow; run it again, it goes on"),
    ],
)
def test_other_failures(error: Exception, part: str) -> None:
    with pytest.raises(HubError, match=f"^cannot download some/model: .*{part}"), hub_errors(HubId("some/model")):
        raise error


@slow
def test_a_broken_download_goes_on_where_it_stopped(
    hub: Hub, command: Command, pocket_files: dict[str, bytes], tmp_path: Path
) -> None:
    files = with_large_file(pocket_files)
    hub.add("some/pocket", files)
    environment = {**hub.environment(tmp_path / "home"), "HF_TOKEN": "hf_secret"}
    hub.cut_after_bytes = 22 << 20
    done = command(INSPECT, "some/pocket", **environment)
    assert_one_clear_line(done, "cannot download some/pocket", "run it again, it goes on from what has arrived")
    hub.cut_after_bytes = None
    before = len(hub.requests)
    done = command(INSPECT, "some/pocket", "--verify", **environment)
    assert done.returncode == 0, done.stderr
    ranges = [seen.range for seen in hub.requests[before:] if seen.method == "GET" and "cdn" in seen.path]
    assert f"bytes={20 << 20}-" in ranges  # the client writes pieces of 10 MiB
    assert not list((tmp_path / "home").rglob("*.incomplete"))
    assert {seen.authorization for seen in hub.asked("cdn")} == {None}
    assert {seen.authorization for seen in hub.asked("resolve", LARGE, method="HEAD")} == {"Bearer hf_secret"}


def test_pieces_that_do_not_fit_together_are_not_kept(
    hub: Hub, command: Command, pocket_files: dict[str, bytes], tmp_path: Path
) -> None:
    files = with_large_file(pocket_files)
    hub.add("some/pocket", files)
    blobs = tmp_path / "home" / "hub" / "models--some--pocket" / "blobs"
    blobs.mkdir(parents=True)
    digest = hashlib.sha256(files[LARGE]).hexdigest()
    part = blobs / f"{digest}.glimpse.incomplete"
    part.write_bytes(b"x" * (12 << 20))
    environment = hub.environment(tmp_path / "home")
    done = command(INSPECT, "some/pocket", **environment)
    assert_one_clear_line(done, f"{LARGE} of some/pocket", "did not arrive as the hub describes it")
    assert not part.exists()
    part.write_bytes(b"x" * (len(files[LARGE]) + 1))
    assert command(INSPECT, "some/pocket", "--verify", **environment).returncode == 0
    assert (blobs / digest).read_bytes() == files[LARGE]


def test_a_manifest_that_leads_out_is_refused_before_anything_is_downloaded(
    hub: Hub, command: Command, pocket_files: dict[str, bytes], tmp_path: Path
) -> None:
    manifest = json.loads(pocket_files["manifest.json"])
    manifest["files"]["../../outside"] = {"bytes": 1, "sha256": ""}
    hub.add("some/pocket", {**pocket_files, "manifest.json": json.dumps(manifest).encode()})
    done = command(INSPECT, "some/pocket", **hub.environment(tmp_path / "home"))
    assert_one_clear_line(done, "'../../outside' leaves the bundle folder")
    assert {seen.path.rpartition("/")[2] for seen in hub.asked("resolve")} == {"manifest.json"}


def test_without_the_extra_it_says_what_to_install(command: Command, tmp_path: Path) -> None:
    (tmp_path / "huggingface_hub.py").write_text("raise ImportError('no', name='huggingface_hub')")
    roots = [str(tmp_path), *(str(ROOT / root) for root in ("runtime", "models"))]
    path = os.pathsep.join(roots)
    done = command(RUN, QUESTION, "--bundle", "some/pocket", PYTHONPATH=path)
    assert_one_clear_line(done, "there is no folder 'some/pocket'", 'pip install "glimpse-edge[hub]"')
    assert command(RUN, QUESTION, "--max-new-tokens", "1", PYTHONPATH=path).returncode == 0
    assert command(RUN, QUESTION, "--bundle", packaged_bundle(), PYTHONPATH=path).returncode == 0


def test_what_is_a_hub_id() -> None:
    assert parse_hub_id("some/model") == HubId("some/model", None)
    assert parse_hub_id("some/model-1.5_x@refs/pr/1") == HubId("some/model-1.5_x", "refs/pr/1")
    for text in ("model", "./some/model", "../model", "/some/model", "~/model", "a/b/c", "a/b@", "a\\b", "a/..", ""):
        assert parse_hub_id(text) is None, text


def test_only_a_hub_id_leads_to_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(hub_id: HubId) -> Path:
        raise BundleNotFoundError(f"asked for {hub_id}")

    monkeypatch.setattr("glimpse_runtime.bundle.hub.fetch.fetch_bundle", refuse)
    monkeypatch.chdir(tmp_path)
    assert locate(None) == packaged_bundle()
    for place in ("bundle", "./some/pocket", str(tmp_path / "some" / "pocket"), Path("some/pocket"), "a/b/c"):
        assert locate(place) == Path(place)
    with pytest.raises(BundleNotFoundError, match="asked for some/pocket@v1"):
        locate("some/pocket@v1")
    shutil.copytree(packaged_bundle(), tmp_path / "some" / "pocket")
    assert Bundle.open(locate("some/pocket")).folder == (tmp_path / "some" / "pocket").resolve()


def test_links_of_a_snapshot_may_lead_to_the_caches_blobs_only(tmp_path: Path) -> None:
    repository = tmp_path / "models--some--pocket"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(packaged_bundle(), snapshot)
    for blobs in (repository / "blobs", tmp_path / "blobs"):
        blobs.mkdir()
        shutil.move(snapshot / "text.data", blobs / "123")
        (snapshot / "text.data").symlink_to(os.path.relpath(blobs / "123", snapshot))
        Bundle.open(snapshot)
        (snapshot / "text.data").unlink()
        shutil.move(blobs / "123", snapshot / "text.data")
    for elsewhere in (tmp_path / "models--other--model" / "blobs", repository / "refs", tmp_path / "blobs2"):
        elsewhere.mkdir(parents=True)
        shutil.move(snapshot / "text.data", elsewhere / "123")
        (snapshot / "text.data").symlink_to(elsewhere / "123")
        with pytest.raises(BundleFormatError, match=r"'text\.data' leaves the bundle folder"):
            Bundle.open(snapshot)
        (snapshot / "text.data").unlink()
        shutil.move(elsewhere / "123", snapshot / "text.data")
