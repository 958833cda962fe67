"""The command ``glimpse-inspect``: a thin skin over ``inspect``."""

from pathlib import Path
from typing import Any

import click

from glimpse_runtime.cli import terminal


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("bundle", required=False, metavar="[BUNDLE]", envvar="GLIMPSE_BUNDLE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the text.")
@click.option("--verify", is_flag=True, help="Hash every file and fail when one was altered.")
@terminal.common_options
def run(bundle: str | None, **options: Any) -> None:
    """Shows what BUNDLE is: a folder or hub id; without it $GLIMPSE_BUNDLE, else the packaged pocket model.

    Reads the manifest and the certificate; needs no inference engine and loads no weights. Warnings go to standard
    error.
    """
    import json

    from glimpse_runtime.bundle.records import plain
    from glimpse_runtime.cli.inspection_text import as_text
    from glimpse_runtime.inspection import inspect

    found = inspect(bundle, verify=options["verify"])
    if options["as_json"]:
        click.echo(json.dumps(plain(found), ensure_ascii=False))
    else:
        click.echo(terminal.shown(as_text(found), None))
    for warning in found.warnings:
        terminal.note(f"Warning: {warning}")
    if options["verify"]:
        terminal.note(f"verified: {len(found.files)} files of {Path(found.folder).name} have the manifest's hashes")


def main() -> None:
    """Entry point of ``glimpse-inspect``."""
    terminal.run(run)
