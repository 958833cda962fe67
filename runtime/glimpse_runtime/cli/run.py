"""The command ``glimpse-run``: a thin skin over ``load`` and ``ask``."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from glimpse_runtime.cli import terminal
from glimpse_runtime.devices import DEFAULT_DEVICE, DEVICES
from glimpse_runtime.stats import SCOUT_STAGES

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from glimpse_runtime.pruning.zoom import ZoomReport
    from glimpse_runtime.session.answer import Answer
    from glimpse_runtime.session.session import Session

_RATIO = click.FloatRange(0.0, 1.0)
_COUNT = click.IntRange(min=1)
# What cameras, browsers and other programs write, read here or not: no question ends so.
_IMAGE = re.compile(
    r"\.(png|apng|jpe?g|jfif|jpe|mpo|webp|bmp|dib|gif|tiff?|p[bgpn]m|heic|heif|avif|jp2|j2k|jxl|ico|dng|exr|hdr|npy|"
    r"raw|yuv|mp4|mkv|avi|mov|webm)([?#]\S*)?\s*$",
    re.IGNORECASE,
)
_PLACE = re.compile(r"(\.{0,2}|~)/\S*\s*|[a-zA-Z]:\\\S*|(data|[a-zA-Z][a-zA-Z0-9+.-]+(?=://)):\S*")


def _pruners() -> str:
    from glimpse_runtime.pruners import table

    return table()


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("words", nargs=-1, required=True, metavar="[IMAGE]... QUESTION")
@click.option(
    "--bundle",
    envvar="GLIMPSE_BUNDLE",
    show_envvar=True,
    metavar="DIR|HUB-ID",
    help="Bundle made by glimpse-export, or OWNER/NAME[@REVISION] of one on the hub. Without it: the packaged pocket "
    "model.",
)
@click.option(
    "--device",
    type=click.Choice(tuple(DEVICES)),
    default=DEFAULT_DEVICE,
    envvar="GLIMPSE_DEVICE",
    show_envvar=True,
    help="Where to run. cuda needs a GPU and the extra gpu; the TensorRT devices need engines that "
    "glimpse-export --target has built on this machine.",
)
@click.option("--max-keep-ratio", type=_RATIO, help="Keep at most this share of the visual tokens.")
@click.option("--threshold", type=_RATIO, help="Keep a visual token when its score is greater.")
@click.option("--pruner", metavar="NAME", help="Method that chooses; --list-pruners names them.  [default: glimpse]")
@click.option(
    "--pre",
    metavar="NAME",
    help="Method of a first stage that drops visual tokens before layer 0; begin with divprune.",
)
@click.option("--pre-keep", type=_RATIO, help="Share of the visual tokens that the first stage keeps.")
@click.option(
    "--zoom",
    is_flag=True,
    help="Look at a copy with a quarter of the pixels first, and encode only the places that matter in full.",
)
@click.option("--no-prune", is_flag=True, help="Run the plain model, all visual tokens kept.")
@click.option("--max-new-tokens", type=_COUNT, default=128, help="Longest answer.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="End with the text there is after so long."
)
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, help="0 takes the best token, more draws.")
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    help="Draw from the best tokens of this probability.",
)
@click.option("--top-k", type=click.IntRange(min=0), default=0, help="Draw from this many best tokens; 0 is no limit.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the draws.")
@click.option(
    "--stop", multiple=True, metavar="TEXT", help="End the answer before this text; may be given more than once."
)
@click.option(
    "--choices",
    metavar="A,B,...",
    help="Answer with one of these; --json and --stats show the probability of each. Name them in the question too.",
)
@click.option("--max-pixels", type=_COUNT, help="Shrink images to at most this many pixels.")
@click.option("--max-visual-tokens", type=_COUNT, help="Shrink each image until it has at most so many visual tokens.")
@click.option(
    "--budget-ms",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MS",
    help="See and prune so that the first token comes within so long; needs --calibrate once.",
)
@click.option("--calibrate", is_flag=True, help="Measure this bundle's costs on this machine first, if not yet done.")
@click.option("--system", metavar="TEXT", help="System message instead of the model's own.")
@click.option(
    "--overlay",
    metavar="FILE",
    help="Write a picture of what was kept (.png, .jpg, .webp).",
)
@click.option("--stats", is_flag=True, help="Print stage times and kept tokens on standard error.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the text.")
@click.option("--threads", type=_COUNT, help="CPU threads per operator; without it the engine chooses.")
@click.option("--verify", is_flag=True, help="Hash every file of the bundle first.")
@click.option(
    "--list-pruners",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=terminal.prints(_pruners),
    help="Print the pruning methods, where they act, what they need and where they are from, and exit.",
)
@terminal.common_options
def run(words: tuple[str, ...], **options: Any) -> None:
    """Asks QUESTION about no, one or several IMAGEs.

    The answer goes to standard output, everything else to standard error.
    """
    images, question = list(words[:-1]), words[-1]
    if not question.strip():
        raise click.UsageError("the question is empty; is a variable of the shell not set?")
    if (kind := _no_question(question)) is not None:
        raise click.UsageError(f"{terminal.shown(repr(question))} is {kind}; give a question after it")
    if "" in images:
        raise click.UsageError("the name of an image is empty; is a variable of the shell not set?")
    for name in ("bundle", "pruner", "pre", "overlay", "stop", "choices"):
        if options[name] == "" or (name == "stop" and "" in options[name]):
            raise click.UsageError(f"--{name} is empty; is a variable of the shell not set?")
    if options["no_prune"]:
        for name in ("threshold", "max_keep_ratio", "pruner", "pre", "pre_keep", "zoom"):
            if options[name] not in (None, False):
                raise click.UsageError(f"--no-prune keeps everything, so --{name.replace('_', '-')} has no meaning")
    if options["choices"] is not None:
        options["choices"] = [choice.strip() for choice in options["choices"].split(",")]
        context = click.get_current_context()
        for name in ("temperature", "top_p", "top_k", "seed", "stop", "max_new_tokens"):
            if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
                raise click.UsageError(f"--choices weighs its choices, so --{name.replace('_', '-')} has no meaning")
    answer_question(images, question, options)


def _no_question(word: str) -> str | None:
    """Says what the last word is where it is no question: the question was forgotten."""
    if _IMAGE.search(word):
        return "an image"
    if os.path.exists(word):  # noqa: PTH110  (a text that can be no path is no error)
        return "a folder" if os.path.isdir(word) else "a file"  # noqa: PTH112
    return "the name of a file" if _PLACE.fullmatch(word) else None


def _pictures(images: list[str], timeout: float | None) -> list["Picture"] | None:
    """Reads images; None where the deadline came first."""
    from glimpse_runtime.checked import seconds
    from glimpse_runtime.inputs.images import read_image
    from glimpse_runtime.interrupt import Interrupt, Interrupted

    try:
        return Interrupt(seconds("timeout", timeout)).run(lambda: [read_image(image) for image in images])
    except Interrupted:
        return None


def answer_question(images: list[str], question: str, options: dict[str, Any]) -> None:
    """Loads the bundle, asks, and prints what was asked for."""
    from glimpse_runtime import Pruning, Sampling, load
    from glimpse_runtime.files.places import resolved
    from glimpse_runtime.pruning import overlay

    picture = Path(options["overlay"]) if options["overlay"] else None
    if picture is not None:
        if not images:
            raise click.UsageError("--overlay needs an image")
        overlay.check_path(picture)
        if resolved(picture) in map(resolved, images):
            raise click.UsageError(f"--overlay {picture} would overwrite the image; choose another name")
    request = Pruning(
        enabled=not options["no_prune"],
        threshold=options["threshold"],
        max_keep_ratio=options["max_keep_ratio"],
        method=options["pruner"] or "glimpse",
        pre=options["pre"],
        pre_keep=options["pre_keep"],
        zoom=0.25 if options["zoom"] else None,
    )
    sampling = (
        None
        if options["choices"]
        else Sampling(
            temperature=options["temperature"],
            top_p=options["top_p"],
            top_k=options["top_k"],
            seed=options["seed"],
            stop=options["stop"],
        )
    )
    if options["bundle"] is None:
        terminal.note("using the packaged pocket model, a tiny one for trying things out; --bundle names another")
    terminal.show_warnings()
    frames = _pictures(images, options["timeout"])
    with load(
        options["bundle"],
        device=options["device"],
        threads=options["threads"],
        max_pixels=options["max_pixels"],
        scene_cache_bytes=0,
        warmup="off",
        verify=options["verify"],
        calibrate=options["calibrate"],
    ) as vlm:
        answer = vlm.ask(
            images if frames is None else frames,
            question,
            pruning=request,
            sampling=sampling,
            max_new_tokens=options["max_new_tokens"],
            timeout=options["timeout"] if frames is not None else 0.0,
            system=options["system"],
            choices=options["choices"],
            max_visual_tokens=options["max_visual_tokens"],
            budget_ms=options["budget_ms"],
        )
        if not options["as_json"]:
            for piece in answer:
                click.echo(piece, nl=False)
            click.echo()
        else:
            click.echo(json.dumps(as_dict(vlm, answer), ensure_ascii=False))
        plan = vlm.memory_plan()
    if picture is not None and (frames is None or not answer.pruning.keep_masks):
        terminal.note(f"{picture} is not written: {answer.pruning.reason}")
    elif picture is not None and frames is not None:
        overlay.save(overlay.sheet(frames, answer.pruning), picture)
    if options["stats"]:
        terminal.note(as_table(answer, plan))


def as_dict(vlm: "Session", answer: "Answer") -> dict[str, Any]:
    """Returns the stable object that ``--json`` prints."""
    text, report, stats = answer.text, answer.pruning, answer.stats
    return {
        "answer": text,
        "finish_reason": answer.finish_reason,
        "probabilities": answer.probabilities,
        "model": vlm.bundle.manifest.model.name,
        "pruning": {
            "method": report.method,
            "threshold": report.threshold,
            "max_keep_ratio": report.max_keep_ratio,
            "kept": report.kept,
            "total": report.total,
            "reason": report.reason,
            "pre": report.pre,
            "pre_kept": report.pre_kept,
            "zoom": zoom_as_dict(report.zoom),
            "keep_masks": [mask.astype(int).tolist() for mask in report.keep_masks],
            "boxes": [list(map(list, boxes)) for boxes in report.boxes],
        },
        "budget": None if answer.budget is None else dataclasses.asdict(answer.budget),
        "stats": {
            "ttft_ms": round(stats.ttft_ms, 3),
            "stage_ms": {name: round(spent, 3) for name, spent in stats.stage_ms.items()},
            "prompt_tokens": stats.prompt_tokens,
            "new_tokens": stats.new_tokens,
            "decode_tokens_per_s": round(stats.decode_tokens_per_s, 1),
            "peak_bytes": stats.peak_bytes,
        },
    }


def zoom_as_dict(zoom: "ZoomReport | None") -> dict[str, Any] | None:
    """Returns what ``--json`` prints of zooming; None where nobody asked for it."""
    if zoom is None:
        return None
    return {
        "share": zoom.share,
        "zoomed": zoom.zoomed,
        "reason": zoom.reason,
        "best": zoom.best,
        "patches_share": zoom.patches_share,
        "mask": None if zoom.mask is None else zoom.mask.astype(int).tolist(),
    }


def as_table(answer: "Answer", memory: Mapping[str, int]) -> str:
    """Returns the lines that ``--stats`` prints."""
    report, stats = answer.pruning, answer.stats
    spent_ms = {name: spent for name, spent in stats.stage_ms.items() if report.zoom or name not in SCOUT_STAGES}
    rows = [(name, f"{spent:9.1f} ms") for name, spent in spent_ms.items()]
    rows.append(("first token", f"{stats.ttft_ms:9.1f} ms"))
    rows.append(("decode speed", f"{stats.decode_tokens_per_s:9.1f} tokens/s"))
    rows.append(("prompt tokens", f"{stats.prompt_tokens:9d}"))
    rows.append(("new tokens", f"{stats.new_tokens:9d} ({answer.finish_reason})"))
    kept = f"{report.kept:9d} of {report.total} ({report.kept_ratio:.1%}), method {report.method}"
    if report.zoom is not None:
        done = "zoomed" if report.zoom.zoomed else f"encoded whole: {report.zoom.reason}"
        rows.append(("patches", f"{report.zoom.patches_share:9.1%} of the image's, {done}"))
    if answer.budget is not None:
        rows.append(("budget", f"{answer.budget.budget_ms:9.1f} ms, {answer.budget.predicted_ms:.1f} ms predicted"))
    if report.pre is not None:
        rows.append(("first stage", f"{report.pre_kept:9d} of {report.total} entered layer 0, method {report.pre}"))
    rows.append(("visual kept", kept + (f": {report.reason}" if report.reason else "")))
    rows += [("choice", f"{share:9.1%} {choice}") for choice, share in (answer.probabilities or {}).items()]
    if stats.peak_bytes is not None:
        rows.append(("peak memory", f"{stats.peak_bytes / 1e6:9.1f} MB"))
    rows += [(name.removesuffix("_bytes"), f"{size / 1e6:9.1f} MB") for name, size in memory.items() if size]
    return "\n".join(f"{name:<15}{value}" for name, value in rows)


def main() -> None:
    """Entry point of ``glimpse-run``."""
    terminal.run(run)
