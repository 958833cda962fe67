"""Accuracy against what it costs as a picture: one line per method over its keeps."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.accuracy.comparison.tables import title
from benchmarks.accuracy.comparison.ways import BOUND, FLOOR, METHOD, REFERENCE, TWO_STAGE

CONTROLS = ("glimpse-attention", "uniform", "random")
_COLOURS = ("C0", "C2", "C3", "C4", "C1", "C9", "C6", "C8", "C5", "#1b7837", "#6a3d9a", "#b15928")
_MARKERS = "osD^vP*Xph<>"
_INK, _GREY = "#222222", "#8a8a8a"
_PANELS = (
    ("kept_share", 100, "visual tokens kept, %"),
    ("ttft_ms", 1, "time to first token, ms"),
)


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Writes the picture as SVG; the same result and version of Matplotlib give the same file."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "glimpse", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(12.5, 6.0), layout="constrained", facecolor="white")
        panels = figure.subplots(1, len(_PANELS), sharey=True)
        for axes, (name, scale, label) in zip(panels, _PANELS, strict=True):
            _fill(axes, result["rows"], name, scale)
            axes.set_xlabel(label)
        panels[0].set_xscale("log")
        ticks = (2, 5, 10, 20, 50, 100)
        panels[0].set_xticks(ticks, [str(tick) for tick in ticks])
        panels[0].minorticks_off()
        panels[0].set_ylabel("exact match")
        _name_floors(panels[-1], result["rows"])
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", frameon=False, title="visual tokens chosen by")
        FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None})


def lines(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yields the rows that are drawn as one line, in the order of what may be kept, by what they have in common."""
    drawn = [row for row in rows if row["kind"] in (METHOD, TWO_STAGE, BOUND)]
    for series in dict.fromkeys(row["series"] for row in drawn):
        own = [row for row in drawn if row["series"] == series]
        yield series, sorted(own, key=lambda row: math.inf if row["keep"] is None else row["keep"])


def _fill(axes: Any, rows: list[dict[str, Any]], name: str, scale: float) -> None:
    (unpruned,) = [row for row in rows if row["kind"] == REFERENCE]
    for row in rows:
        if row["kind"] == FLOOR:
            axes.axhline(row["exact_match"], color=_GREY, linewidth=0.9, linestyle=":")
    axes.axhline(unpruned["exact_match"], color=_INK, linewidth=0.9, linestyle="-.")
    star = {"color": _INK, "marker": "*", "markersize": 15, "linestyle": "", "label": "all (unpruned)", "zorder": 4}
    axes.plot(scale * unpruned[name], unpruned["exact_match"], **star)
    colours = iter(_COLOURS)
    for index, (series, own) in enumerate(lines(rows)):
        control, important = own[0]["method"] in CONTROLS, own[0]["method"] == "glimpse"
        bound = own[0]["kind"] == BOUND
        axes.errorbar(
            [scale * row[name] for row in own],
            [row["exact_match"] for row in own],
            yerr=list(zip(*map(_bar, own), strict=True)),
            label=f"{series} (true boxes)" if bound else series,
            color=_GREY if control else _INK if bound else next(colours, _INK),
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=7 if important else 5,
            linewidth=2.2 if important else 1.1,
            linestyle="--" if control or own[0]["kind"] == TWO_STAGE else "-",
            elinewidth=0.6,
            capsize=2,
            zorder=3 if important else 2,
        )
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _name_floors(axes: Any, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["kind"] == FLOOR:
            axes.annotate(
                title(row),
                (0.99, row["exact_match"]),
                xycoords=("axes fraction", "data"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="right",
                color="#555555",
                fontsize=8.5,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
                zorder=5,
            )


def _bar(row: Mapping[str, Any]) -> tuple[float, float]:
    """Lengths of the error bar: the interval of the difference to unpruned, put about the row's own height."""
    low, high = row["difference_interval"]
    return max(0.0, row["difference"] - low), max(0.0, high - row["difference"])
