"""What all commands do alike: exit codes, one-line errors, and tracebacks only on request."""

import logging
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import click

from glimpse_runtime.errors import GlimpseError

FAILURE, USAGE, INTERRUPTED = 1, 2, 130

Function = TypeVar("Function", bound=Callable[..., object])


def run(command: click.Command, arguments: Sequence[str] | None = None, name: str | None = None) -> NoReturn:
    """Runs a command and exits: 0 done, 1 failure, 2 usage, 130 interrupted.

    Errors are one line on standard error; ``--debug`` shows where they come from.

    Args:
        command: the command.
        arguments: its words; None is the process's.
        name: what the user called it; None is the process's name.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
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
        click.echo(f"Error: {error}", err=True)
        sys.exit(FAILURE)
    except Exception as error:
        if debug:
            raise
        click.echo(f"Error: {type(error).__name__}: {error} (a bug: run again with --debug and report it)", err=True)
        sys.exit(FAILURE)
    sys.exit(0)


def note(message: str) -> None:
    """Prints a remark on standard error."""
    click.echo(message, err=True)


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
