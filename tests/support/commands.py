"""The commands as a user calls them: in this process where that is not the point, which spares a second each."""

import contextlib
import importlib
import io
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from support.places import ROOT, SOURCE_ROOTS

Command = Callable[..., "subprocess.CompletedProcess[str]"]
_TIMEOUT_S = 120


def run_apart(module: str, *words: str | Path, **changes: str) -> "subprocess.CompletedProcess[str]":
    """Runs the ``main`` of a module of this checkout in a process of its own.

    Args:
        module: the module's name.
        words: of the command line.
        changes: of the environment.
    """
    path = os.pathsep.join(str(ROOT / root) for root in SOURCE_ROOTS)
    return subprocess.run(
        [sys.executable, "-c", f"from {module} import main; main()", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **changes},
        timeout=_TIMEOUT_S,
        check=False,
    )


def run_here(module: str, *words: str | Path, **changes: str) -> "subprocess.CompletedProcess[str]":
    """Does the same in this process.

    What libraries read when they are imported does not change here: only ``GLIMPSE_*`` may be set.
    """
    assert all(name.startswith("GLIMPSE_") for name in changes), "another environment needs a process of its own"
    main = importlib.import_module(module).main
    out, err, code = io.StringIO(), io.StringIO(), 0
    log = logging.getLogger("glimpse")
    handlers = list(log.handlers)
    with (
        mock.patch.dict(os.environ, changes),
        mock.patch.object(sys, "argv", [module, *map(str, words)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        except Exception:
            traceback.print_exc()
            code = 1
        finally:
            log.handlers[:] = handlers  # a command shows the library's warnings; the next test does not expect it
    return subprocess.CompletedProcess([module, *map(str, words)], code, out.getvalue(), err.getvalue())


def assert_one_clear_line(done: "subprocess.CompletedProcess[str]", *parts: str, code: int = 1) -> None:
    """A failed command: the exit code, no answer, no traceback, one line of error that holds ``parts``."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.stderr
    for part in parts:
        assert part in errors[0]
