"""``optimum-cli export glimpse`` is glimpse-export: every option, the same code, no harm where optimum is absent."""

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from support.places import ROOT

from glimpse_export.cli.export import run as export_command

Parse = Callable[..., list[str]]


def optimum_is_installed() -> bool:
    try:
        return importlib.util.find_spec("optimum.commands.base") is not None
    except ModuleNotFoundError:
        return False


def registered() -> bool:
    """Whether the installed glimpse-edge brings its file for optimum; a checkout on the path alone does not."""
    return optimum_is_installed() and importlib.util.find_spec("optimum.commands.register.register_glimpse") is not None


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Parse:
    """Parses words as optimum does, and returns those that reach the click command."""
    base = types.ModuleType("optimum.commands.base")
    base.BaseOptimumCLICommand = type(
        "BaseOptimumCLICommand", (), {"__init__": lambda self, args: setattr(self, "args", args)}
    )
    base.CommandInfo = lambda **unused: None
    for name in ("optimum", "optimum.commands"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "optimum.commands.base", base)
    monkeypatch.delitem(sys.modules, "glimpse_export.cli.optimum_command", raising=False)
    module = importlib.import_module("glimpse_export.cli.optimum_command")
    monkeypatch.delitem(sys.modules, "glimpse_export.cli.optimum_command")
    seen: list[list[str]] = []
    monkeypatch.setattr("glimpse_runtime.cli.terminal.run", lambda command, words, name: seen.append(words))

    def words_for(*words: str) -> list[str]:
        parser = argparse.ArgumentParser()
        module.GlimpseExportCommand.parse_args(parser)
        module.GlimpseExportCommand(parser.parse_args(words)).run()
        return seen.pop()

    return words_for


def test_every_option_is_passed_on(parse: Parse) -> None:
    given: list[str] = []
    for option in export_command.params:
        assert isinstance(option, click.Option)
        if option.name != "out":
            given += [option.opts[-1]] if option.is_flag or option.count else [option.opts[-1], *["7"] * option.nargs]
    assert parse(*given, "bundle") == [*given, "--out", "bundle"]


def test_order_spelling_and_place_of_the_folder(parse: Parse) -> None:
    assert parse("--model", "pocket", "out") == ["--model", "pocket", "--out", "out"]
    assert parse("out", "--force", "--model=pocket") == ["--force", "--model", "pocket", "--out", "out"]
    assert parse("--model", "a", "--model", "b") == ["--model", "a", "--model", "b"]
    assert parse() == []


def test_unknown_options_are_refused(parse: Parse, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--task", "x"], ["one", "two"], ["--model"]):
        with pytest.raises(SystemExit) as caught:
            parse(*words)
        assert caught.value.code == 2
    assert "unrecognized arguments: --task" in capsys.readouterr().err


def test_optimums_namespace_holds_the_one_file_that_nobody_else_imports() -> None:
    assert [path.name for path in (ROOT / "export" / "optimum_register").glob("*.py")] == ["register_glimpse.py"]
    for root in ("runtime", "export", "models", "plugins"):
        for path in (ROOT / root).rglob("*.py"):
            if path.name not in ("optimum_command.py", "register_glimpse.py"):
                text = path.read_text()
                assert "import optimum" not in text, path
                assert "from optimum" not in text, path
                assert "optimum_command" not in text, path


def optimum_cli(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "optimum.commands.optimum_cli", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(not registered(), reason='needs pip install "glimpse-edge[optimum]"')
def test_optimum_exports_a_bundle(tmp_path: Path) -> None:
    assert "glimpse" in optimum_cli("export", "--help").stdout
    help_text = optimum_cli("export", "glimpse", "--help").stdout
    for option in export_command.params:
        assert option.name == "out" or option.opts[-1] in help_text
    out = tmp_path / "bundle"
    done = optimum_cli("export", "glimpse", "--model", "pocket", "--max-context", "512", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == str(out)
    manifest: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    assert manifest["profiles"]["context"]["max"] == 512
    done = optimum_cli("export", "glimpse", "--model", "pocket", out)
    assert done.returncode == 1
    assert "--force" in done.stderr
    assert "Traceback" not in done.stderr
    done = optimum_cli("export", "glimpse", "--model", "pocket", "--dialect", "tpu")
    assert done.returncode == 2
    assert "Usage: optimum-cli export glimpse" in done.stderr
