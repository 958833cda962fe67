"""The command ``glimpse-export``: a thin skin over ``plan`` and ``export``."""

import sys
from pathlib import Path
from typing import Any

import click

from glimpse_export.options import CERTIFY_LEVELS, DEFAULT_DIALECT, DIALECT_NAMES
from glimpse_export.precision import CACHE_PRECISIONS, PRECISIONS, Precision
from glimpse_models import MODELS
from glimpse_runtime import terminal

_COUNT = click.IntRange(min=1)


def _models() -> str:
    rows = [
        f"{facts.name:<16}{facts.base}\n{'':<16}adapter {facts.adapter}\n{'':<16}{facts.licence}"
        for facts in MODELS.values()
    ]
    return "\n".join(rows)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--model",
    required=True,
    metavar="NAME|HUB-ID|FOLDER",
    help="What to export; --list shows the names. A folder holds Hugging Face files.",
)
@click.option("--adapter", metavar="HUB-ID|FOLDER", help="GlimpsePrune adapter: config.json and new_modules_gp.pt.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Folder to write; by default MODEL-bundle.",
)
@click.option(
    "--precision", type=click.Choice(PRECISIONS), help="What matrices are rounded to; per part with the next options."
)
@click.option("--vision-precision", type=click.Choice(PRECISIONS), help="The same for the vision encoder.")
@click.option("--lower-precision", type=click.Choice(PRECISIONS), help="The same for the decoder layers 0..K.")
@click.option("--upper-precision", type=click.Choice(PRECISIONS), help="The same for the layers behind K.")
@click.option("--head-precision", type=click.Choice(PRECISIONS), help="The same for the LM head.")
@click.option("--kv-cache-precision", type=click.Choice(CACHE_PRECISIONS), help="Keys and values of past tokens.")
@click.option("--max-context", type=_COUNT, help="Rows of the KV cache; by default 4096 or the model's limit.")
@click.option(
    "--max-visual-tokens",
    type=_COUNT,
    help="Largest image in visual tokens, by default what fits; others are shrunk to it.",
)
@click.option("--no-tokenizer", is_flag=True, help="Make a bundle that takes token ids only.")
@click.option(
    "--dialect",
    type=click.Choice(DIALECT_NAMES),
    default=DEFAULT_DIALECT,
    help="Family of inference engines the graphs are written for.",
)
@click.option(
    "--certify",
    type=click.Choice(CERTIFY_LEVELS),
    default="quick",
    help="Check the bundle against the original before it appears.",
)
@click.option("--dry-run", is_flag=True, help="Check everything and print graphs, shapes and sizes; write nothing.")
@click.option("--force", is_flag=True, help="Replace a bundle that is already there.")
@click.option("--debug", is_flag=True, help="Show where an error comes from.")
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=terminal.prints(_models),
    help="Print the models known by name and exit.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=terminal.prints(terminal.version),
    help="Print the version and exit.",
)
def run(**options: Any) -> None:
    """Exports a vision-language model with a GlimpsePrune adapter to a bundle for glimpse-run.

    The bundle's folder goes to standard output, progress to standard error.
    """
    export_model(options)


def export_model(options: dict[str, Any]) -> None:
    """Plans, and unless it is a dry run writes the bundle."""
    try:
        from glimpse_export import ExportOptions, export, plan
        from glimpse_runtime.manifest import MANIFEST_NAME, Manifest
    except ImportError as error:
        raise click.ClickException(f'{error.name} is not installed; run: pip install "glimpse-edge[export]"') from None
    request = ExportOptions(
        model=options["model"],
        adapter=options["adapter"],
        dialect=options["dialect"],
        precision=Precision.choose(
            options["precision"], **{part: options[f"{part}_precision"] for part in Precision.parts()}
        ),
        max_context=options["max_context"],
        max_visual_tokens=options["max_visual_tokens"],
        tokenizer=not options["no_tokenizer"],
        certify=options["certify"],
        force=options["force"],
    )
    if options["dry_run"]:
        click.echo(plan(request).describe())
        return
    out = options["out"] or Path(f"{Path(options['model']).name}-bundle")
    folder = export(request, out, _progress)
    size_bytes = sum(path.stat().st_size for path in folder.iterdir())
    manifest = Manifest.from_json((folder / MANIFEST_NAME).read_text(encoding="utf-8"), str(folder))
    terminal.note(f"licence of the weights: {manifest.model.licence}")
    terminal.note(f"wrote {len(list(folder.glob('*.onnx')))} graphs, {size_bytes / 1e6:,.1f} MB")
    click.echo(folder)


def _progress(message: str) -> None:
    if sys.stderr.isatty():
        terminal.note(message)


def main() -> None:
    """Entry point of ``glimpse-export``."""
    terminal.run(run)
