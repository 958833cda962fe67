"""What every way of pruning costs in accuracy and saves in time, on held-out questions through the deployed pipeline.

    python benchmarks/accuracy/accuracy.py --pruners all --keep 0.05,0.111,0.222,0.5 --samples 1000 --json

docs/figures/accuracy.md says what the rows and figures are. With --zoom, zooming is compared instead, with fewer
pixels for the whole image as the floor and zooming to the true boxes as the ceiling: docs/use/see_cheaply.md.
"""

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import click

from benchmarks.accuracy.comparison import tables, zooming
from benchmarks.accuracy.comparison.asking import Asker
from benchmarks.accuracy.comparison.facts import load_average, machine, model_facts, rounded
from benchmarks.accuracy.comparison.intervals import RESAMPLES
from benchmarks.accuracy.comparison.measure import measure
from benchmarks.accuracy.comparison.progress import Progress
from benchmarks.accuracy.comparison.ways import METHOD, REFERENCE, TWO_STAGE, Check, Way, choose
from glimpse_export.errors import UnsupportedError
from glimpse_export.weights.precision import Precision
from glimpse_models.pocket.model.config import PAPER_CAP
from glimpse_models.pocket.scenes.heldout import samples
from glimpse_models.pocket.scenes.questions import TYPES
from glimpse_models.pocket.scenes.texts import SPLITS
from glimpse_runtime import Pruning, Session, load
from glimpse_runtime.cli import terminal
from glimpse_runtime.devices import DEVICES
from glimpse_runtime.files.atomic import write_text


def names(context: click.Context, parameter: click.Parameter, text: str) -> list[str]:
    """Reads a list with commas."""
    return list(dict.fromkeys(word for word in text.replace(" ", "").split(",") if word))


def shares(context: click.Context, parameter: click.Parameter, text: str) -> list[float]:
    """Reads a list of numbers above 0 to 1."""
    try:
        found = list(dict.fromkeys(float(word) for word in names(context, parameter, text)))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    for share in found:
        if not 0 < share <= 1:
            raise click.BadParameter(f"shares lie above 0 and up to 1, found {share:g}")
    return found


def precisions(context: click.Context, parameter: click.Parameter, text: str) -> list[str]:
    """Reads a list of precisions."""
    found = names(context, parameter, text)
    for name in found:
        try:
            read_precision(name)
        except UnsupportedError as error:
            raise click.BadParameter(str(error)) from None
    return found


def read_precision(word: str) -> Precision:
    """Returns the precision that a word names: ``int4``, or with parts of their own ``int4:lower=int8:head=fp16``.

    Raises:
        UnsupportedError: there is no such precision or part.
    """
    whole, *parts = word.split(":")
    chosen = dict(part.partition("=")[::2] for part in parts)
    if not whole or len(chosen) < len(parts) or not all(chosen.values()):
        raise UnsupportedError(f"{word!r} names no precision, or none for a part; write for example int4:lower=int8")
    return Precision.choose(whole, **chosen)


def place(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Refuses a file that could not be written when all is measured."""
    if path is not None and not os.access(path.absolute().parent, os.W_OK):
        raise click.BadParameter(f"cannot write into {path.absolute().parent}; make that folder first")
    return path


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--pruners", default="glimpse", callback=names, help="Methods with commas, all, or none.")
@click.option("--keep", "keeps", default=f"{PAPER_CAP}", callback=shares, help="Caps and shares, with commas.")
@click.option("--pre", "pres", default="", callback=names, help="First stages to put before the glimpse.")
@click.option("--pre-keep", "pre_keeps", default="0.5", callback=shares, help="Shares that these keep.")
@click.option("--samples", "count", default=1000, type=click.IntRange(min=1), help="Questions.")
@click.option("--split", default="test", type=click.Choice(SPLITS), help="Of scenes, words and numbers.")
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Of scenes, order, and everything drawn.")
@click.option("--bundle", help="Folder or hub id; without it the packaged pocket bundle.")
@click.option("--device", default="cpu", type=click.Choice(tuple(DEVICES)), help="Where to run.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads per operator; the engine's choice without it.")
@click.option(
    "--precisions",
    "wanted",
    default="",
    callback=precisions,
    help="Precisions to export and compare; int4:lower=int8 gives a part its own.",
)
@click.option(
    "--zoom", is_flag=True, help="Compare zooming instead; of the others only draws, bundle and device apply."
)
@click.option("--model", default="pocket", help="What --precisions exports: a name, folder or hub id.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), callback=place, help="Write the JSON object to a file."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@terminal.common_options
def command(
    wanted: list[str], zoom: bool, model: str, out: Path | None, as_json: bool, debug: bool, **options: Any
) -> None:
    """Runs the benchmark."""
    try:
        result = compare_zoom(**options) if zoom else compare(**options)
        if wanted:
            result["precisions"] = compare_precisions(wanted, model, **options)
    except ModuleNotFoundError as error:
        raise click.ClickException(str(error)) from None
    text = json.dumps(rounded(result), indent=1)
    if out is not None:
        write_text(out, text + "\n")
    click.echo(text if as_json or zoom else report(result))


def compare(
    pruners: Sequence[str],
    keeps: Sequence[float],
    pres: Sequence[str],
    pre_keeps: Sequence[float],
    count: int,
    split: Any,
    seed: int,
    bundle: str | None,
    device: str,
    threads: int | None,
) -> dict[str, Any]:
    """Returns all figures of one bundle."""
    start, load_before = time.monotonic(), load_average()
    with load(bundle, device=device, threads=threads, scene_cache_bytes=0) as session:
        first_stages = [(pre, share) for pre in pres for share in pre_keeps]
        ways, skipped = choose(pruners, keeps, first_stages, checker(session, split, seed))
        progress = Progress(f"{len(ways)} answers to each question", count)
        results = measure(session, ways, samples(count, seed, split), seed, progress.show)
        facts = model_facts(session)
    rows = results.rows(seed)
    return {
        **headline(ways, rows),
        "questions": len(results.questions),
        "questions_by_type": {
            name: number for name in TYPES if (number := sum(q.type == name for q in results.questions))
        },
        "scenes": len(set(results.scenes)),
        "split": split,
        "seed": seed,
        "resamples": RESAMPLES,
        "model": facts,
        "machine": {**machine(device, threads), "load": [load_before, load_average()]},
        "minutes": (time.monotonic() - start) / 60,
        "image_ms": results.typical(results.image_ms),
        "rows": rows,
        "most_frequent_answer": results.most_frequent_answer(),
        "skipped": skipped,
    }


def compare_zoom(
    count: int, split: Any, seed: int, bundle: str | None, device: str, threads: int | None, **_: object
) -> dict[str, Any]:
    """Returns the figures of zooming."""
    start, load_before = time.monotonic(), load_average()
    with load(bundle, device=device, threads=threads, scene_cache_bytes=0) as session:
        progress = Progress("zooming", count)
        figures = zooming.measure(session, samples(count, seed, split), seed, progress.show)
        facts = model_facts(session)
    return {
        **figures,
        "split": split,
        "seed": seed,
        "resamples": RESAMPLES,
        "model": facts,
        "machine": {**machine(device, threads), "load": [load_before, load_average()]},
        "minutes": (time.monotonic() - start) / 60,
    }


def compare_precisions(
    wanted: Sequence[str], model: str, count: int, split: Any, seed: int, threads: int | None, **_: object
) -> list[dict[str, object]]:
    """Returns the figures of each precision."""
    from benchmarks.accuracy.comparison import precisions as by_precision

    with tempfile.TemporaryDirectory() as folder, quiet():
        bundles = by_precision.export_all(model, {name: read_precision(name) for name in wanted}, Path(folder))
        progress = Progress(f"precisions {', '.join(bundles)}", count)
        return by_precision.compare(bundles, samples(count, seed, split), seed, threads, progress.show)


@contextmanager
def quiet() -> Iterator[None]:
    """Holds back warnings: bundles that live as long as a measurement have no certificate."""
    log = logging.getLogger("glimpse")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def checker(session: Session, split: Any, seed: int) -> Check:
    """Returns what refuses a request that the bundle cannot answer."""
    asker, sample = Asker(session), next(samples(1, seed, split))
    picture = asker.look(sample.image)

    def check(pruning: Pruning) -> None:
        asker.check(picture, sample.question.text, pruning)

    return check


def headline(ways: Sequence[Way], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the figures of unpruned and of one row: the glimpse with the paper's cap, or else the first pruned."""
    by_way = dict(zip(ways, rows, strict=True))
    (unpruned,) = [row for row in rows if row["kind"] == REFERENCE]
    found: dict[str, Any] = {"accuracy_unpruned": unpruned["exact_match"]}
    pruned = [way for way in ways if way.kind in (METHOD, TWO_STAGE)]
    if pruned:
        paper = Way(METHOD, "glimpse", PAPER_CAP)
        row = by_way.get(paper) or by_way[next((way for way in pruned if way.keep is not None), pruned[0])]
        found |= {"accuracy": row["exact_match"], "pruned_share": 1 - row["kept_share"], "row": row["name"]}
    return found


def report(result: Mapping[str, Any]) -> str:
    """Returns a result as text for a terminal."""
    parts = [tables.plain(tables.ways(result)), tables.plain(tables.types(result))]
    if "precisions" in result:
        parts.append(tables.plain(tables.precisions(result)))
    parts += [f"skipped {name}: {reason}" for name, reason in result["skipped"].items()]
    return "\n\n".join(parts)


if __name__ == "__main__":
    terminal.run(command)
