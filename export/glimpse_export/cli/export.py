"""The command ``glimpse-export``: a thin skin over ``plan``, ``export`` and ``build_engines``."""

import sys
from pathlib import Path
from typing import Any

import click

from glimpse_export.cli.request import board_of, build_options, export_options, target_of
from glimpse_export.planning.boards import BOARDS, Budget, parse_budget
from glimpse_export.planning.options import CERTIFY_LEVELS
from glimpse_export.planning.targets import TARGETS
from glimpse_export.weights.precision import CACHE_PRECISIONS, PRECISIONS
from glimpse_models.listing import listing
from glimpse_runtime.bundle.dialects import DIALECTS
from glimpse_runtime.cli import terminal
from glimpse_runtime.files.reading import read_small_text

_COUNT = click.IntRange(min=1)
_PLACES = ("model", "bundle", "adapter", "lora", "vision_tower", "revision", "out")
_FOR_BUNDLES = ("bundle", "target", "board", "dialects", "plugin", "budget", "force", "dry_run", "as_json", "debug")


def _budget(context: click.Context, option: click.Parameter, value: str | None) -> Budget | None:
    try:
        return None if value is None else parse_budget(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--model",
    metavar="NAME|HUB-ID|FOLDER",
    help="What to export; --list shows the names. A folder holds Hugging Face files.",
)
@click.option(
    "--bundle",
    metavar="BUNDLE|HUB-ID",
    help="Build the engines of this bundle, on the machine that will run them.",
)
@click.option(
    "--target",
    type=click.Choice(tuple(TARGETS)),
    help="Where it will run; decides what is not said otherwise. By default what --board needs, else cpu.",
)
@click.option(
    "--board",
    type=click.Choice(tuple(BOARDS)),
    help="Presets of a board or a desktop GPU: target, precision, limits, and its memory as --budget. Not measured.",
)
@click.option("--adapter", metavar="HUB-ID|FOLDER", help="GlimpsePrune adapter: config.json and new_modules_gp.pt.")
@click.option(
    "--lora",
    metavar="HUB-ID|FOLDER",
    help="LoRA adapter of the model, merged into it: adapter_config.json and adapter_model.safetensors, as peft saves.",
)
@click.option(
    "--vision-tower",
    metavar="HUB-ID|FOLDER",
    help="Vision tower of a model whose base does not hold it; by default the one that its config.json names.",
)
@click.option(
    "--revision",
    metavar="NAME",
    help="Branch, tag or commit of the model on the hub; HUB-ID@NAME says it for all of them alike.",
)
@click.option(
    "--out",
    metavar="BUNDLE",
    help="Folder to write; by default MODEL-bundle.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="What matrices are rounded to: by default what --list recommends for the target, fp32 for other models.",
)
@click.option("--vision-precision", type=click.Choice(PRECISIONS), help="The same for the vision encoder.")
@click.option("--lower-precision", type=click.Choice(PRECISIONS), help="The same for the decoder layers 0..K.")
@click.option(
    "--lower-attention-precision",
    type=click.Choice(PRECISIONS),
    help="The same for the attention of these; int8 without it, where they get int4.",
)
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
    type=click.Choice(DIALECTS),
    multiple=True,
    help="Family of inference engines the graphs are written for; may be given several times, weights are shared. By "
    "default what the target needs.",
)
@click.option(
    "--head-parts",
    type=_COUNT,
    help="Products the LM head is made of, by default 1; more save memory in between on small boards.",
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
    help="Refuse what would need more memory at run time than 8GiB, 6000MB or the like, or than is left on a board. "
    "With --bundle: what a build may take; by default what is free.",
)
@click.option(
    "--plugin/--no-plugin",
    default=None,
    help="Insist on the CUDA plugin for compaction, or do without. By default it is used where it can be compiled.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check everything, print sizes, memory and times; write nothing. "
    "Without a connection a model of --list is planned from its known sizes.",
)
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: print the plan as one JSON object.")
@click.option(
    "--force", is_flag=True, help="Begin from nothing, and replace a bundle or engines that are already there."
)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=terminal.prints(listing),
    help="Print the models known by name and exit.",
)
@terminal.common_options
def run(**words: Any) -> None:
    """Exports a vision-language model with a GlimpsePrune adapter to a bundle for glimpse-run.

    With --bundle it builds the TensorRT engines of a bundle that is there; that needs neither torch nor transformers.

    The bundle's folder goes to standard output, or the engines' files; progress goes to standard error.
    """
    _check(click.get_current_context(), words)
    if words["bundle"] is not None:
        build(words)
    else:
        export_model(words)


def export_model(words: dict[str, Any]) -> None:
    """Plans, and unless it is a dry run writes the bundle, and builds its engines where they can be built."""
    try:
        from glimpse_export.exporter import carry_out, forecast
        from glimpse_export.forecast.text import describe, to_json
        from glimpse_runtime.bundle.manifest import MANIFEST_NAME, Manifest
    except ImportError as error:
        raise click.ClickException(f'{error.name} is not installed; run: pip install "glimpse-edge[export]"') from None
    options = export_options(words)
    if words["dry_run"]:
        checked = forecast(options)
        click.echo(to_json(checked) if words["as_json"] else describe(checked))
        return
    out = Path(words["out"] or f"{Path(words['model']).name.partition('@')[0]}-bundle")
    outcome = carry_out(options, out, _progress)
    folder = outcome.folder
    size_bytes = sum(path.stat().st_size for path in folder.iterdir())
    manifest = Manifest.from_json(read_small_text(folder / MANIFEST_NAME), str(folder))
    terminal.note(f"licence of the weights: {manifest.model.licence}")
    if outcome.taken_over:
        terminal.note(f"taken over from an earlier run: {', '.join(outcome.taken_over)}")
    wrote = "nothing to do, unchanged:" if outcome.unchanged else "wrote"
    terminal.note(f"{wrote} {len(list(folder.glob('*.onnx')))} graphs, {size_bytes / 1e6:,.1f} MB")
    click.echo(folder)
    if TARGETS[options.target].builds_engines:
        from glimpse_export.engines.after import build_if_possible

        engines, reason = build_if_possible(folder, build_options(words), board_of(words), terminal.note)
        terminal.note(reason or f"{len(engines)} engines for {engines[0].record.key.gpu}")


def build(words: dict[str, Any]) -> None:
    """Builds the engines of a bundle, or says what there would be to build."""
    from glimpse_export.engines import text as plan_text
    from glimpse_export.engines.builder import build_engines, plan_engines
    from glimpse_runtime.bundle.locate import locate

    folder = locate(words["bundle"])
    options = build_options(words, words["dialects"][0] if words["dialects"] else None)
    if words["dry_run"]:
        planned = plan_engines(folder, options, _progress)
        click.echo(plan_text.to_json(planned) if words["as_json"] else plan_text.describe(planned))
        return
    for engine in build_engines(folder, options, terminal.note):
        click.echo(engine.path)


def _check(context: click.Context, words: dict[str, Any]) -> None:
    """Refuses options that mean nothing together, or say nothing."""
    for name in _PLACES:
        if words[name] is not None and not words[name].strip():
            raise click.UsageError(
                f"--{name.replace('_', '-')} is empty (an unset variable of the shell?); name something or leave it out"
            )
    if words["as_json"] and not words["dry_run"]:
        raise click.UsageError("--json prints a plan; use it with --dry-run")
    if (words["model"] is None) == (words["bundle"] is None):
        raise click.UsageError("name either --model to export, or --bundle to build engines of")
    if words["model"] is not None:
        return
    if not TARGETS[target_of(words)].builds_engines:
        engines = " or ".join(name for name, target in TARGETS.items() if target.builds_engines)
        raise click.UsageError(f"--bundle builds engines and needs --target {engines}")
    given = click.core.ParameterSource.COMMANDLINE
    for option in context.command.params:
        if option.name not in _FOR_BUNDLES and context.get_parameter_source(option.name or "") == given:
            raise click.UsageError(f"{option.opts[0]} is for an export, not for --bundle")
    if len(words["dialects"]) > 1:
        raise click.UsageError("--bundle builds one --dialect at a time")


def _progress(message: str) -> None:
    if sys.stderr.isatty():
        terminal.note(message)


def main() -> None:
    """Entry point of ``glimpse-export``."""
    terminal.run(run)
