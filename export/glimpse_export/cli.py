"""The command ``glimpse-export``: a thin skin over ``plan`` and ``export``."""

import sys
from pathlib import Path
from typing import Any

import click

from glimpse_export.boards import BOARDS, Budget, parse_budget
from glimpse_export.options import CERTIFY_LEVELS, DEFAULT_DIALECTS, DIALECT_NAMES
from glimpse_export.precision import CACHE_PRECISIONS, PRECISIONS, Precision
from glimpse_models import find
from glimpse_models.listing import listing
from glimpse_runtime import terminal

_COUNT = click.IntRange(min=1)


def _budget(context: click.Context, option: click.Parameter, value: str | None) -> Budget | None:
    try:
        return None if value is None else parse_budget(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--model",
    required=True,
    metavar="NAME|HUB-ID|FOLDER",
    help="What to export; --list shows the names. A folder holds Hugging Face files.",
)
@click.option("--adapter", metavar="HUB-ID|FOLDER", help="GlimpsePrune adapter: config.json and new_modules_gp.pt.")
@click.option(
    "--revision",
    metavar="NAME",
    help="Branch, tag or commit of the model on the hub; HUB-ID@NAME says it for model and adapter alike.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Folder to write; by default MODEL-bundle.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="What matrices are rounded to: by default what --list recommends for a CPU, fp32 for other models.",
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
    "dialects",
    type=click.Choice(DIALECT_NAMES),
    multiple=True,
    default=DEFAULT_DIALECTS,
    help="Family of inference engines the graphs are written for; may be given several times, weights are shared.",
)
@click.option(
    "--head-parts",
    type=_COUNT,
    default=1,
    help="Products the LM head is made of; more than one saves memory in between on small boards.",
)
@click.option(
    "--vision-attention",
    is_flag=True,
    help="Let the vision encoder also give the attention that visual tokens receive, for --pruner visionzip.",
)
@click.option(
    "--certify",
    type=click.Choice(CERTIFY_LEVELS),
    default="quick",
    help="Check the bundle against the original before it appears.",
)
@click.option(
    "--budget",
    callback=_budget,
    metavar="SIZE|BOARD",
    help="Refuse what would need more memory at run time than 8GiB, 6000MB or the like, or than is left on a board: "
    f"{', '.join(BOARDS)}.",
)
@click.option("--dry-run", is_flag=True, help="Check everything, print sizes, memory and times; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: print the plan as one JSON object.")
@click.option("--force", is_flag=True, help="Begin from nothing, and replace a bundle that is already there.")
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=terminal.prints(listing),
    help="Print the models known by name and exit.",
)
@terminal.common_options
def run(**options: Any) -> None:
    """Exports a vision-language model with a GlimpsePrune adapter to a bundle for glimpse-run.

    The bundle's folder goes to standard output, progress to standard error.
    """
    export_model(options)


def export_model(options: dict[str, Any]) -> None:
    """Plans, and unless it is a dry run writes the bundle."""
    if options["as_json"] and not options["dry_run"]:
        raise click.UsageError("--json prints a plan; use it with --dry-run")
    try:
        from glimpse_export import ExportOptions, plan
        from glimpse_export.exporter import carry_out
        from glimpse_export.plan_text import describe, to_json
        from glimpse_runtime.manifest import MANIFEST_NAME, Manifest
    except ImportError as error:
        raise click.ClickException(f'{error.name} is not installed; run: pip install "glimpse-edge[export]"') from None
    request = ExportOptions(
        model=options["model"],
        adapter=options["adapter"],
        revision=options["revision"],
        dialects=options["dialects"],
        precision=_precision(options),
        head_parts=options["head_parts"],
        vision_attention=options["vision_attention"],
        max_context=options["max_context"],
        max_visual_tokens=options["max_visual_tokens"],
        budget=options["budget"],
        tokenizer=not options["no_tokenizer"],
        certify=options["certify"],
        force=options["force"],
    )
    if options["dry_run"]:
        checked = plan(request)
        click.echo(to_json(checked) if options["as_json"] else describe(checked))
        return
    out = options["out"] or Path(f"{Path(options['model']).name.partition('@')[0]}-bundle")
    outcome = carry_out(request, out, _progress)
    folder = outcome.folder
    size_bytes = sum(path.stat().st_size for path in folder.iterdir())
    manifest = Manifest.from_json((folder / MANIFEST_NAME).read_text(encoding="utf-8"), str(folder))
    terminal.note(f"licence of the weights: {manifest.model.licence}")
    if outcome.taken_over:
        terminal.note(f"taken over from an earlier run: {', '.join(outcome.taken_over)}")
    wrote = "nothing to do, unchanged:" if outcome.unchanged else "wrote"
    terminal.note(f"{wrote} {len(list(folder.glob('*.onnx')))} graphs, {size_bytes / 1e6:,.1f} MB")
    click.echo(folder)


def _precision(options: dict[str, Any]) -> Precision:
    """What was asked for; without ``--precision`` what the registry recommends for a model on a CPU."""
    parts = {part: options[f"{part}_precision"] for part in Precision.parts()}
    gpu = DEFAULT_DIALECTS[0] not in options["dialects"]
    facts = find(options["model"]) if options["precision"] is None else None
    if facts is None or Path(options["model"]).is_dir():
        return Precision.choose(options["precision"], gpu, **parts)
    recommended = facts.precision["cpu"]
    return Precision.choose(recommended.text, gpu, **{**parts, "vision": parts["vision"] or recommended.vision})


def _progress(message: str) -> None:
    if sys.stderr.isatty():
        terminal.note(message)


def main() -> None:
    """Entry point of ``glimpse-export``."""
    terminal.run(run)
