"""A result as tables of text: for a terminal, and for docs/figures/accuracy.md."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.accuracy.comparison.ways import BOUND, FLOOR, METHOD, REFERENCE, TWO_STAGE

Cells = list[list[str]]

HEAD = [
    "visual tokens chosen by",
    "keep",
    "exact match",
    "against unpruned, points",
    "kept",
    "prefill, ms",
    "TTFT, ms",
    "decode, ms",
    "KV, KiB",
    "KV peak, KiB",
]
_NAMES = {
    REFERENCE: "all of them (unpruned)",
    "blind": "no image at all",
    "dropped": "none at the split",
    "random-at-split": "at random at the split, as many as the glimpse",
}


def ways(result: Mapping[str, Any]) -> Cells:
    """Returns the rows of all ways below a head."""
    lines = [HEAD]
    for row in result["rows"]:
        lines.append(
            [
                title(row),
                keep(row),
                f"{row['exact_match']:.3f}",
                _points(row),
                f"{100 * row['kept_share']:.1f} %",
                *(_ms(row[name]) for name in ("prefill_ms", "ttft_ms", "decode_ms_per_token")),
                *(f"{row[name] / 1024:.0f}" for name in ("kv_bytes", "kv_peak_bytes")),
            ]
        )
    return lines


def types(result: Mapping[str, Any]) -> Cells:
    """Returns exact match per question type, and that of the most frequent answer."""
    names = list(result["questions_by_type"])
    guess = {"name": "most frequent answer of the type", "keep": None, **result["most_frequent_answer"]}
    lines = [["visual tokens chosen by", "keep", "all", *names]]
    lines.append(["questions", "", str(result["questions"]), *(str(n) for n in result["questions_by_type"].values())])
    for row in [*result["rows"], guess]:
        by_type = row["exact_match_by_type"]
        figures = [row["exact_match"], *(by_type[name] for name in names)]
        lines.append([title(row), keep(row), *(f"{figure:.3f}" for figure in figures)])
    return lines


def precisions(result: Mapping[str, Any]) -> Cells:
    """Returns one row for each precision."""
    lines = [["precision", "unpruned", "against fp32, points", "glimpse", "against fp32, points", "kept"]]
    lines[0] += ["kept sets: IoU, mean of questions", "of all tokens together"]
    for row in result["precisions"]:
        accuracies = [
            text for way in ("unpruned", "glimpse") for text in (f"{row[way]['exact_match']:.3f}", _points(row[way]))
        ]
        overlaps = [f"{row[name]:.3f}" for name in ("iou", "iou_of_all_tokens")]
        lines.append([row["precision"], *accuracies, f"{100 * row['kept_share']:.1f} %", *overlaps])
    return lines


def title(row: Mapping[str, Any]) -> str:
    """Returns what a row is called in a table."""
    kind = row.get("kind")
    if kind == REFERENCE:
        return _NAMES[REFERENCE]
    if kind == FLOOR:
        return _NAMES[row["name"]]
    if kind == BOUND:
        return "`oracle`, the true boxes"
    if kind == METHOD:
        return f"`{row['method']}`"
    return f"`{row['pre']}` {row['pre_keep']:g}, then `{row['method']}`" if kind else row["name"]


def keep(row: Mapping[str, Any]) -> str:
    """Returns the number that a row was asked with."""
    if row["keep"] is not None:
        return f"{row['keep']:g}"
    return "threshold" if row.get("kind") in (METHOD, TWO_STAGE) else ""


def run(result: Mapping[str, Any]) -> str:
    """Returns what was asked of which model on which machine, as a paragraph and a list of what is missing."""
    model, machine = result["model"], result["machine"]
    used = ", ".join(sorted(set(model["precision"].values())))
    threads = "" if machine["threads"] is None else f", {machine['threads']} threads"
    busy = " to ".join("?" if load is None else f"{load:.1f}" for load in machine["load"])
    text = (
        f"{result['questions']} questions about {result['scenes']} scenes of the {result['split']} split, seed "
        f"{result['seed']}, {len(result['rows'])} ways. Model `{model['name']}`, base `{model['base_sha256'][:12]}`, "
        f"adapter `{(model['adapter_sha256'] or '-')[:12]}`, {used}, threshold {model['threshold']:g}, pruning after "
        f"{model['lower_layers']} of {model['layers']} layers. {machine['processor']}, {machine['cores']} cores, "
        f"device {machine['device']}{threads}, ONNX Runtime {machine['onnxruntime']}, load {busy}, "
        f"{result['minutes']:.1f} minutes. An image costs {result['image_ms']:.1f} ms before the decoder, "
        "which is part of every TTFT but that without an image.\n"
    )
    skipped = "".join(f"* `{name}` is missing: {reason}\n" for name, reason in result["skipped"].items())
    return "\n".join(textwrap.wrap(text, 120)) + "\n" + (f"\n{skipped}" if skipped else "")


def markdown(lines: Cells) -> str:
    """Returns a Markdown table."""
    head, *rows = lines
    first, *others = (f"| {' | '.join(cells)} |\n" for cells in (head, *rows))
    return "".join([first, "|---" * len(head) + "|\n", *others])


def plain(lines: Cells) -> str:
    """Returns a table in columns, the first flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "  ".join([f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)])

    return "\n".join(line([cell.replace("`", "") for cell in cells]) for cells in lines)


def _points(row: Mapping[str, Any]) -> str:
    """A difference in percentage points with its interval."""
    if "difference_interval" not in row:
        return ""
    low, high = row["difference_interval"]
    return f"{100 * row['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
