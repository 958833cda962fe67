"""``optimum-cli export glimpse``: glimpse-export behind optimum's command line. Imported by optimum alone."""

import argparse
from typing import Any

import click
from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

from glimpse_export.cli.export import run
from glimpse_runtime.cli import terminal

_OUT = "--out"


class GlimpseExportCommand(BaseOptimumCLICommand):  # type: ignore[misc]
    """Hands its words to the click command, whose parameters stay the only list of options there is."""

    COMMAND = CommandInfo(
        name="glimpse", help="Export a vision-language model with a GlimpsePrune adapter for glimpse-run."
    )

    @staticmethod
    def parse_args(parser: argparse.ArgumentParser) -> None:
        """Declares glimpse-export's options; the bundle's folder is a word without a name, as elsewhere in optimum."""
        parser.description = run.help
        parser.add_argument("out", nargs="?", metavar="OUT", help="Folder to write; by default MODEL-bundle.")
        for option in run.params:
            if isinstance(option, click.Option) and _OUT not in option.opts:
                parser.add_argument(
                    *option.opts,
                    *option.secondary_opts,
                    dest="words",
                    action=_Forward,
                    nargs=0 if option.is_flag or option.count else option.nargs,
                    metavar=option.metavar or option.type.name.upper(),
                    help=(option.help or "").replace("%", "%%"),
                )

    def run(self) -> None:
        """Runs glimpse-export and exits with its status."""
        out = [] if self.args.out is None else [_OUT, self.args.out]
        terminal.run(run, [*(self.args.words or []), *out], name="optimum-cli export glimpse")


class _Forward(argparse.Action):
    """Keeps an option as it was given, in the order of all."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        words = getattr(namespace, self.dest) or []
        setattr(namespace, self.dest, [*words, option, *values])
