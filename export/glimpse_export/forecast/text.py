"""A plan as text for people, and as JSON."""

import dataclasses
import json
from collections.abc import Iterable

from glimpse_export.forecast.estimate import Estimate, estimate
from glimpse_export.planning.plan import Plan
from glimpse_export.planning.targets import DEFAULT_TARGET

POSTS = {
    "weights": "weights",
    "kv_cache": "KV cache",
    "working": "largest request",
    "scenes": "cached scenes",
    "process": "process",
}

_KNOWN = "as known for this model: its files cannot be reached, so they were not checked"


def describe(plan: Plan) -> str:
    """Returns what an export will write, cost and need, as readable lines."""
    costs = estimate(plan)
    rows = [*_model(plan), ("", ""), *_limits(plan)]
    return "\n".join(
        [*(f"{name:<15}{value}".rstrip() for name, value in rows), "", *_stages(costs), "", *_run_time(plan, costs)]
    )


def to_json(plan: Plan) -> str:
    """Returns the same as one line of JSON."""
    return json.dumps(
        {
            "model": plan.folders.name,
            "licence": plan.folders.licence,
            "from_known_sizes": plan.is_known,
            "target": plan.options.target,
            "dialects": plan.options.dialects,
            "precision": dataclasses.asdict(plan.options.precision),
            "max_pixels": plan.family.max_pixels(plan.images),
            "profiles": {name: dataclasses.asdict(profile) for name, profile in plan.profiles.items()},
            **estimate(plan).as_dict(),
        }
    )


def gibibytes(size: int) -> str:
    """Returns a size of memory in words."""
    return f"{size / (1 << 30):,.2f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):,.0f} MiB"


def _model(plan: Plan) -> Iterable[tuple[str, str]]:
    text, tower = plan.architecture.text, plan.architecture.vision
    scorer, glimpse = plan.architecture.scorer, plan.architecture.glimpse
    lower = plan.architecture.lower_layers
    scope = "global" if scorer.window is None else "windowed"
    head = f"LM head, {text.vocab_size} words"
    taps, selected = (", ".join(map(str, listed)) for listed in (scorer.taps, glimpse.selected_layers))
    return [
        ("model", f"{plan.folders.name} ({plan.folders.licence})"),
        *([("sizes", _KNOWN)] if plan.is_known else ()),
        *_lora(plan),
        ("target", plan.options.target),
        ("dialects", ", ".join(plan.options.dialects)),
        ("vision", f"patches x {tower.patch_values} -> visual_tokens x {tower.out_size}; {tower.depth} blocks"),
        (
            "lower",
            f"layers 0..{lower - 1} of {text.layers}, hidden {text.hidden_size}, attention read in layers {selected}",
        ),
        (
            "score",
            f"{len(scorer.taps)} blocks of {scorer.size}, taps {taps}, {scope}",
        ),
        ("upper", f"layers {lower}..{text.layers - 1} and {head}" if lower < text.layers else head),
        *([("learned", ", ".join(path.name for path in plan.pruners))] if plan.pruners else ()),
    ]


def _lora(plan: Plan) -> Iterable[tuple[str, str]]:
    if plan.lora is not None:
        ranks = ", ".join(map(str, plan.lora.ranks))
        yield "lora", f"{plan.folders.lora_source}: {len(plan.lora.products)} matrices of rank {ranks}, merged"


def _limits(plan: Plan) -> Iterable[tuple[str, str]]:
    yield "images", plan.family.image_text(plan.images)
    for name, profile in plan.profiles.items():
        yield name, f"{profile.min} .. {profile.opt} .. {profile.max}"


def _stages(costs: Estimate) -> Iterable[str]:
    yield f"{'export':<15}{'file':<19}{'precision':<28}{'size':>12}{'peak memory':>14}{'time':>14}"
    for s in costs.stages:
        cells = f"{s.file_bytes / 1e6:>9,.1f} MB{gibibytes(s.peak_bytes):>14}{_time(s.seconds):>14}"
        yield f"{s.name:<15}{s.file:<19}{s.precision:<28}{cells}"
    yield f"{'first, once':<15}{'hash of the checkpoint':<73}{_time(costs.hash_seconds):>14}"
    cells = f"{costs.file_bytes / 1e6:>9,.1f} MB{gibibytes(costs.peak_bytes):>14}{_time(costs.seconds):>14}"
    yield f"{'in all':<62}{cells}"


def _run_time(plan: Plan, costs: Estimate) -> Iterable[str]:
    yield "at run time"
    notes = {
        "weights": "as loaded",
        "kv_cache": f"{plan.options.precision.kv_cache}, {plan.profiles['context'].max} rows",
        "working": f"{plan.profiles['visual_tokens'].max} visual tokens, {plan.profiles['rows'].max} rows",
        "scenes": "at most; load(scene_cache_bytes=0) saves them",
        "process": "python, libraries, tokenizer",
    }
    for post, size in costs.run.posts.items():
        yield f"  {POSTS[post]:<17}{gibibytes(size):>10}  {notes[post]}"
    verdict = ""
    if plan.options.budget is not None:
        verdict = f"  of {gibibytes(plan.options.budget.available_bytes)} (--budget {plan.options.budget.name})"
    yield f"  {'in all':<17}{gibibytes(costs.run.total):>10}{verdict}"
    target = plan.options.target
    basis = "ONNX Runtime on a CPU" if target == DEFAULT_TARGET else f"{target}, where nothing was measured,"
    yield (
        f"Sizes and the KV cache are exact; other memory and times are estimates, for {basis} and an export on two "
        "cores."
    )


def _time(seconds: float) -> str:
    return f"about {seconds:,.0f} s" if seconds < 120 else f"about {seconds / 60:,.0f} min"
