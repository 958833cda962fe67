"""What others have written is bounded and not trusted by its name: patterns, templates, folders, graphs, caches."""

import os
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.graph_files import weight_files
from glimpse_runtime.bundle.packaged import packaged_bundle
from glimpse_runtime.cli.terminal import shown
from glimpse_runtime.errors import BackendError, BundleError, BundleFormatError
from glimpse_runtime.session.loading import load

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx_ir")

from glimpse_export import OutputError, UnsupportedError  # noqa: E402
from glimpse_export.source import rendering  # noqa: E402
from glimpse_export.source.lora import patterns  # noqa: E402
from glimpse_export.write.output import require_replaceable  # noqa: E402
from glimpse_export.write.work import WorkFolder  # noqa: E402

MODULES = tuple(f"model.layers.{layer}.self_attn.q_proj" for layer in range(8))


def test_a_pattern_that_never_comes_back_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_SECONDS", 1)
    start_s = time.monotonic()
    with pytest.raises(UnsupportedError, match="takes more than 1 s to match; name the modules"):
        patterns.matching("(([a-z0-9_.])+)+Z", MODULES, "adapter_config.json")
    assert time.monotonic() - start_s < 10


@pytest.mark.parametrize(
    ("pattern", "ends", "count"),
    [(r".*\.(q_proj|v_proj)", False, 8), ("q_proj", True, 8), ("q_proj", False, 0), (r"layers\.[0-3]\..*", True, 4)],
)
def test_patterns_match_as_the_library_has_it(pattern: str, ends: bool, count: int) -> None:
    assert len(patterns.matching(pattern, MODULES, "x", ends)) == count


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "not rendered within 1 s"),
        ("{% for a in range(99999) %}{{ 'x' * 99 }}{% endfor %}", "more than 1048576 characters"),
        ("{{ 'x' * 10000000000 }}", "not allowed"),
        ("{{ [0] * 10000000000 }}", "not allowed"),
        ("{{ 9 ** 99999999 }}", "not allowed"),
        ("{{ messages.append(1) }}", "cannot be rendered"),
        ("{{ ''.__class__.__mro__ }}", "cannot be rendered"),
        ("{% set a = namespace(x='x' * 999) %}{% for _ in range(40) %}{% set a.x = a.x ~ a.x %}{% endfor %}", "Memory"),
        ("{{ '%9999999999d' % 5 }}", "MemoryError; take the base's chat template"),
        ("{{ '{:>9999999999}'.format(1) }}", "MemoryError"),
        ("{{ [1] | slice(9999999999) | list }}", "not rendered within 1 s"),
        ("{% set a = namespace(x=3) %}{% for _ in range(40) %}{% set a.x = a.x * a.x %}{% endfor %}", "within 1 s"),
        ("{{ raise_exception() }}", "refuses a plain conversation: it says no reason"),
    ],
)
def test_a_template_is_bounded(monkeypatch: pytest.MonkeyPatch, source: str, part: str) -> None:
    if "within" in part:
        monkeypatch.setattr(rendering, "_SECONDS", 1)
    start_s, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnsupportedError, match=part):
        rendering.Renderer(source, "chat_template.jinja", None)([{"role": "user", "content": []}])
    assert time.monotonic() - start_s < 15
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_a_template_that_never_ends_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_SECONDS", 1)
    render = rendering.Renderer(
        "{{ messages[0].content }}{% for _ in range(n) %}{{ [1] | slice(n) | list }}{% endfor %}", "x", {"n": 1}
    )  # type: ignore[dict-item]
    assert render([{"role": "user", "content": "\ud800 \x01 é"}]) == "\ud800 \x01 é[[1]]"
    process = render._process
    with pytest.raises(UnsupportedError, match="not rendered within 1 s"):
        rendering.Renderer("{{ 'x' | slice(9999999999) | list }}", "x")([])
    assert process.poll() is None
    del render
    assert process.poll() is not None


def test_a_work_folder_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    place, work = tmp_path / "bundle", tmp_path / ".bundle.work"
    elsewhere = tmp_path / "precious"
    (elsewhere / "old").mkdir(parents=True)
    (elsewhere / "old" / "thesis").write_text("years")
    work.symlink_to(elsewhere)
    with pytest.raises(OutputError, match="it is no folder; move it away"), WorkFolder.opened(place):
        pass
    work.unlink()
    shutil.copytree(elsewhere, work)
    with pytest.raises(OutputError, match="glimpse-export has not made it; move it away"), WorkFolder.opened(place):
        pass
    assert (work / "old" / "thesis").read_text() == "years"
    shutil.rmtree(work)
    with WorkFolder.opened(place) as own:
        assert own.path.stat().st_mode & 0o077 == 0
        (own.path / "vision-0123456789abcdef").mkdir()
    own.path.chmod(0o777)
    with pytest.raises(OutputError, match="others may write to it"), WorkFolder.opened(place):
        pass
    own.path.chmod(0o700)
    if hasattr(os, "getuid") and os.getuid() == 0:
        os.chown(own.path, 12345, 12345)
        with pytest.raises(OutputError, match="belongs to another user"), WorkFolder.opened(place):
            pass


def test_what_was_put_there_meanwhile_stays(tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    with WorkFolder.opened(place) as work:
        bundle = work.assemble({})
        (bundle / "new").touch()
        place.mkdir()
        (place / "letter").write_text("of today")
        with pytest.raises(OutputError, match="while the export ran, something that is not a bundle"):
            work.put_in_place(lambda folder: require_replaceable(place, folder, force=True))
        assert (place / "letter").read_text() == "of today"
        shutil.rmtree(place)
        shutil.copytree(packaged_bundle(), place)
        with pytest.raises(OutputError, match="while the export ran, a bundle was put"):
            work.put_in_place(lambda folder: require_replaceable(place, folder, force=False))

        def put_a_file(folder: Path) -> None:
            """Somebody writes into the old bundle between the two looks."""
            require_replaceable(place, folder, force=True)
            (folder / "letter").write_text("of today")

        with pytest.raises(OutputError, match="it also holds letter"):
            work.put_in_place(put_a_file)
        assert (place / "letter").read_text() == "of today"
        assert (place / "manifest.json").is_file()
        (place / "letter").unlink()
        work.put_in_place(lambda folder: require_replaceable(place, folder, force=True))
        assert [path.name for path in place.iterdir()] == ["new"]


def test_a_small_manifest_of_something_else_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format_version": 1, "files": {}, "name": "my extension"}')
    with pytest.raises(OutputError, match="not a bundle's"):
        require_replaceable(tmp_path, tmp_path, force=True)


def test_a_graph_reads_listed_files_alone(tmp_path: Path) -> None:
    for path in sorted(packaged_bundle().glob("*.onnx")):
        model = onnx.load(path, load_external_data=False)
        expected = {
            entry.value
            for tensor in model.graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }
        assert weight_files(path.read_bytes(), path.name) == expected
        assert expected
    bundle = Path(shutil.copytree(packaged_bundle(), tmp_path / "bundle"))
    graph = bundle / "score.onnx"
    model = onnx.load(graph, load_external_data=False)
    hidden = onnx.helper.make_node(
        "Constant", [], ["unused"], value=next(tensor for tensor in model.graph.initializer if tensor.external_data)
    )
    for entry in hidden.attribute[0].t.external_data:
        if entry.key == "location":
            entry.value = "secret.data"
    model.graph.node.append(hidden)
    assert "secret.data" in weight_files(model.SerializeToString(), "score.onnx")
    for damaged in (b"\xff" * 40, model.SerializeToString()[:-7], b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"):
        with pytest.raises(BundleFormatError, match="is not an ONNX graph"):
            weight_files(damaged, "score.onnx")


def test_a_graph_in_anothers_place_is_named(tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(packaged_bundle(), tmp_path / "bundle"))
    opened = Bundle.open(bundle)
    shutil.copy(bundle / "upper.onnx", bundle / "score.onnx")
    from glimpse_runtime.backends import open_backend

    with pytest.raises(BackendError, match=r"score\.onnx is not the graph that the manifest describes: inputs differ"):
        open_backend("cpu").load(opened, "score", opened.manifest.stages_of("ort")["score"], {})


def test_text_of_a_file_does_nothing_to_a_terminal() -> None:
    assert shown("a\x1b[2Jb\x07\n\tc\u202e") == "a\\x1b[2Jb\\x07\n\tc\\x202e"
    assert len(shown("x" * 1_000_000)) < 5000


def test_links_into_another_bundle_say_where_it_is(tmp_path: Path) -> None:
    installed = tmp_path / "install"
    installed.mkdir()
    for path in packaged_bundle().iterdir():
        (installed / path.name).symlink_to(path)
    with pytest.raises(BundleFormatError, match=r"it is a link into .*bundle: name that folder as the bundle"):
        Bundle.open(installed)
    with load(packaged_bundle(), warmup="off") as vlm:
        assert vlm.ask(np.zeros((28, 28, 3), np.uint8), "Is there a star?").text


@pytest.mark.parametrize("name", ["tokenizer.json", "text.data", "manifest.json"])
def test_a_link_that_leads_to_itself_is_no_file(tmp_path: Path, name: str) -> None:
    bundle = Path(shutil.copytree(packaged_bundle(), tmp_path / "bundle"))
    (bundle / name).unlink()
    (bundle / name).symlink_to(bundle / name)
    with pytest.raises(BundleError, match=rf"{name}( is missing; copy the whole bundle|: Too many levels)"):
        Bundle.open(bundle)
