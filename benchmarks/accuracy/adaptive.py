"""Whether the number of kept tokens follows what the question is about, and not the size of the image.

    python benchmarks/accuracy/adaptive.py [--bundle DIR] [--scenes 60] [--seed 0] [--json]

Pocket answers questions about held-out scenes in which one thing alone varies (``glimpse_models.pocket.controlled``):
how many objects of the shape to count there are, or how large the picture is. The bundle's threshold prunes, without a
cap. Standard errors are over scenes. ``docs/make/make_adaptive.py`` puts the tables into docs/figures/adaptive.md.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image
from scipy.stats import spearmanr

from glimpse_models.pocket.controlled import SIDES, counting_scenes, resized_scenes
from glimpse_models.pocket.evaluate import MAX_NEW_TOKENS
from glimpse_models.pocket.scenes.questions import TYPES, Question, ask
from glimpse_models.pocket.scenes.relevant import relevant_tokens
from glimpse_models.pocket.scenes.sprites import SHAPES
from glimpse_runtime import GlimpseError, Pruning, Session, load

COUNTING_SIDE = 448
WAYS = {"pruned": Pruning(max_keep_ratio=1.0), "unpruned": Pruning(enabled=False)}
DIGITS = 4


@dataclass(frozen=True)
class Asked:
    """One question: what varied, visual tokens of the image, those under the true boxes, those kept, right or not."""

    scene: int
    varied: int
    visual: int
    relevant: int
    kept: int
    right: bool
    right_unpruned: bool


def put(vlm: Session, scene: int, varied: int, image: Image.Image, question: Question) -> Asked:
    """Asks with pruning and without."""
    given = {
        name: vlm.ask(image, question.text, pruning=way, max_new_tokens=MAX_NEW_TOKENS) for name, way in WAYS.items()
    }
    right = {name: answer.text.strip() == question.answer for name, answer in given.items()}
    report = given["pruned"].pruning
    rows, columns = report.keep_masks[0].shape
    relevant = int(relevant_tokens(question.boxes, image.size, rows, columns).sum())
    return Asked(scene, varied, report.total, relevant, report.kept, right["pruned"], right["unpruned"])


def by_count(vlm: Session, scenes: int, seed: int) -> Iterator[Asked]:
    """Counts 1, 2, ... shapes in scenes that are equal otherwise."""
    for index in range(scenes):
        rng = Random(f"adaptive/count/{seed}/{index}")
        drawn = counting_scenes(rng, SHAPES[index % len(SHAPES)], COUNTING_SIDE)
        for scene, question in drawn:
            yield put(vlm, index, len(question.boxes), scene.image, question)


def by_size(vlm: Session, scenes: int, seed: int) -> Iterator[Asked]:
    """Asks the same questions about the same objects in pictures of several sizes."""
    for index in range(scenes):
        for side, scene in zip(SIDES, resized_scenes(Random(f"adaptive/size/{seed}/{index}")), strict=True):
            for question in ask(Random(f"adaptive/ask/{seed}/{index}"), scene.objects, len(TYPES)):
                yield put(vlm, index, side, scene.image, question)


def mean_with_error(values: Sequence[float]) -> dict[str, float | None]:
    """Returns the mean and its standard error, which one value alone does not have."""
    error = round(statistics.stdev(values) / len(values) ** 0.5, DIGITS) if len(values) > 1 else None
    return {"mean": round(statistics.fmean(values), DIGITS), "standard_error": error}


def rank_correlation(first: Sequence[int], second: Sequence[int]) -> float | None:
    """Returns Spearman's rank correlation; None where one of the two never varies."""
    if min(first) == max(first) or min(second) == max(second):
        return None
    return round(float(spearmanr(first, second).statistic), DIGITS)


def summary(answers: Sequence[Asked], name: str) -> dict[str, Any]:
    """Returns a row for every value of what varied, and how kept tokens go with the relevant ones and the image's.

    Args:
        answers: at least one for every scene and value.
        name: what varied.
    """
    rows, per_scene = [], []
    for value in sorted({answer.varied for answer in answers}):
        some = [answer for answer in answers if answer.varied == value]
        scenes = sorted({answer.scene for answer in some})
        per_scene.append([statistics.fmean(a.kept for a in some if a.scene == scene) for scene in scenes])
        rows.append(
            {
                name: value,
                "questions": len(some),
                "visual_tokens": some[0].visual,
                "relevant": round(statistics.fmean(a.relevant for a in some), DIGITS),
                "kept": {**mean_with_error(per_scene[-1]), "median": statistics.median(a.kept for a in some)},
                "kept_share": round(statistics.fmean(a.kept / a.visual for a in some), DIGITS),
                "exact_match": round(statistics.fmean(a.right for a in some), DIGITS),
                "exact_match_unpruned": round(statistics.fmean(a.right_unpruned for a in some), DIGITS),
            }
        )
    kept = [answer.kept for answer in answers]
    return {
        "rows": rows,
        "kept_last_minus_first": mean_with_error([b - a for a, b in zip(per_scene[0], per_scene[-1], strict=True)]),
        "rank_correlation_kept_relevant": rank_correlation([a.relevant for a in answers], kept),
        "rank_correlation_kept_visual": rank_correlation([a.visual for a in answers], kept),
    }


def measure(vlm: Session, scenes: int, seed: int, progress: bool = False) -> dict[str, Any]:
    """Returns both summaries, and on what they were measured."""
    manifest = vlm.bundle.manifest
    source = manifest.model.source
    report: dict[str, Any] = {
        "model": manifest.model.name,
        "base_sha256": source.base_sha256,
        "adapter_sha256": source.adapter_sha256,
        "threshold": manifest.pruning.threshold,
        "scenes": scenes,
        "seed": seed,
    }
    for name, questions in (("objects", by_count), ("side", by_size)):
        answers = []
        for answer in questions(vlm, scenes, seed):
            answers.append(answer)
            if progress:
                print(f"\r{name}: scene {answer.scene + 1} of {scenes}", end="", file=sys.stderr, flush=True)
        if progress:
            print(file=sys.stderr)
        report[f"by_{name}"] = summary(answers, name)
    return report


def with_error(value: dict[str, float | None], form: str = "") -> str:
    """Returns a mean and its standard error as text."""
    error = value["standard_error"]
    return f"{value['mean']:{form}.1f}" + ("" if error is None else f" ± {error:.1f}")


def table(part: dict[str, Any], name: str, head: str) -> str:
    """Returns one summary in Markdown."""
    titles = (head, "visual tokens", "relevant", "kept", "median", "kept share", "exact match", "unpruned")
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in part["rows"]:
        cells = (
            f"{row[name]}",
            f"{row['visual_tokens']:,}",
            f"{row['relevant']:.1f}",
            with_error(row["kept"]),
            f"{row['kept']['median']:g}",
            f"{row['kept_share']:.1%}",
            f"{row['exact_match']:.3f}",
            f"{row['exact_match_unpruned']:.3f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    first, last = part["rows"][0][name], part["rows"][-1][name]
    ranks = ((of, part[f"rank_correlation_kept_{of}"]) for of in ("relevant", "visual"))
    correlations = ", ".join(f"with {of} tokens {rank:.2f}" for of, rank in ranks if rank is not None)
    lines += [
        "",
        f"From {first} to {last}, in the same scenes: {with_error(part['kept_last_minus_first'], '+')} tokens kept. "
        f"Rank correlation of the kept tokens {correlations or 'is not defined'}.",
    ]
    return "\n".join(lines)


def tables(report: dict[str, Any]) -> str:
    """Returns a report in Markdown."""
    return "\n\n".join(
        (
            f"{report['model']}, threshold {report['threshold']:g}, {report['scenes']} scenes of each kind, "
            f"seed {report['seed']}.",
            table(report["by_objects"], "objects", "shapes to count"),
            table(report["by_side"], "side", "side in pixels"),
        )
    )


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="bundle of a pocket model (default: the packaged one)")
    parser.add_argument("--scenes", type=int, default=60, help="scenes of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.scenes < 1:
        parser.error(f"--scenes must be at least 1, found {options.scenes}")
    try:
        with load(options.bundle) as vlm:
            report = measure(vlm, options.scenes, options.seed, sys.stderr.isatty())
    except GlimpseError as error:
        sys.exit(f"Error: {error}")
    print(json.dumps(report, indent=2) if options.json else tables(report))


if __name__ == "__main__":
    main()
