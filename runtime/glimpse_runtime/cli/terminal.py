"""What all commands do alike: exit codes, one-line errors, and tracebacks only on request."""

import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import click

from glimpse_runtime.errors import GlimpseError, printable

FAILURE, USAGE, INTERRUPTED = 1, 2, 130
_LONGEST = 4000
_OS_ADVICE = {
    errno.ENOSPC: "free some room on that disk, or write elsewhere",
    errno.EACCES: "check who may read and write there, or name another place",
    errno.EPERM: "check who may read and write there, or name another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "a link there leads to itself; name the place it should lead to",
    errno.EROFS: "the file system is read-only; name another place",
    errno.ENOMEM: "close other programs, or use fewer pixels",
}

Function = TypeVar("Function", bound=Callable[..., object])


def run(command: click.Command, arguments: Sequence[str] | None = None, name: str | None = None) -> NoReturn:
    """Runs a command and exits: 0 done, 1 failure, 2 usage, 130 interrupted.

    Errors are one line on standard error; ``--debug`` shows where they come from.

    Args:
        command: the command.
        arguments: its words; None is the process's.
        name: what the user called it; None is the process's name.
    """
    words = [_decoded(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    debug = "--debug" in words[: words.index("--")] if "--" in words else "--debug" in words
    try:
        command.main(args=words, prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except GlimpseError as error:
        if debug:
            raise
        _fail(str(error))
    except BrokenPipeError:
        # Whoever reads the answer has seen enough. What is buffered must not be tried again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILURE)
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        advice = _OS_ADVICE.get(error.errno or 0, "see what the system says of it, then run the command again")
        _fail(f"{where}{error.strerror or error}; {advice}")
    except MemoryError:
        if debug:
            raise
        _fail("memory ran out; close other programs, use fewer pixels, or export with a smaller --precision")
    except RecursionError:
        if debug:
            raise
        _fail("a file is nested too deeply to be read; download it again")
    except Exception as error:
        if debug:
            raise
        click.echo(f"Error: {type(error).__name__}: {error} (a bug: run again with --debug and report it)", err=True)
        sys.exit(FAILURE)
    sys.exit(0)


def note(message: str) -> None:
    """Prints a remark on standard error."""
    click.echo(shown(message), err=True)


def shown(text: str, most: int | None = _LONGEST) -> str:
    """Returns text that may come from a file as what a terminal can be given: no control characters, no megabytes."""
    clean = printable(text, kept="\n\t")
    return clean if most is None or len(clean) <= most else f"{clean[:most]}... ({len(clean)} characters)"


def _fail(message: str) -> NoReturn:
    """Prints an error and exits."""
    click.echo(f"Error: {shown(message)}", err=True)
    sys.exit(FAILURE)


def _decoded(word: str) -> str:
    """Returns a word of the command as UTF-8, whatever the locale made of it."""
    try:
        return os.fsencode(word).decode("utf-8")
    except UnicodeError:
        return word


def show_warnings() -> None:
    """Prints the library's warnings on standard error; a program that uses the library decides that for itself."""
    log = logging.getLogger("glimpse")
    if not log.handlers:
        log.addHandler(_Notes(logging.WARNING))


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(f"Warning: {record.getMessage()}")


def prints(text: Callable[[], str]) -> Callable[[click.Context, click.Parameter, bool], None]:
    """Returns the callback of an eager flag that prints something and exits."""

    def show(context: click.Context, option: click.Parameter, value: bool) -> None:
        if value and not context.resilient_parsing:
            click.echo(text())
            context.exit()

    return show


def version() -> str:
    """Returns the versions of the package and the bundle format, and the devices."""
    from glimpse_runtime._version import __version__
    from glimpse_runtime.bundle.manifest import FORMAT_VERSION
    from glimpse_runtime.devices import DEVICES, installed_devices

    there = installed_devices()
    devices = ", ".join(name if name in there else f"{name} (not installed)" for name in DEVICES)
    return f"glimpse-edge {__version__}, bundle format {FORMAT_VERSION}, devices: {devices}"


def common_options(function: Function) -> Function:
    """Adds the options that every command has, ``--debug`` and ``--version``, behind its own."""
    options = (
        click.option("--debug", is_flag=True, help="Show where an error comes from."),
        click.option(
            "--version",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=prints(version),
            help="Print the version and exit.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function
