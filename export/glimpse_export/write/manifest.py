"""Puts the manifest of a bundle together."""

import dataclasses
from collections.abc import Mapping

from glimpse_export.model.architecture import SCORER_ROPE_THETA
from glimpse_export.planning.plan import Plan
from glimpse_export.weights.precision import DEFAULT_PRECISION
from glimpse_export.write.sources import Sources
from glimpse_export.write.stages import embedding_spec
from glimpse_runtime._version import __version__
from glimpse_runtime.bundle import manifest as m


def draft_manifest(plan: Plan, sources: Sources, stamps: Mapping[str, str], prompt: m.PromptSpec | None) -> m.Manifest:
    """Returns the manifest as far as it is known before anything is written: without graphs and files.

    Args:
        plan: what to export.
        sources: hashes of what it is made from.
        stamps: the stamp of every stage.
        prompt: the chat template's pieces, None for a bundle without a tokenizer.
    """
    architecture, folders = plan.architecture, plan.folders
    text, vision, scorer, glimpse = (
        architecture.text,
        architecture.vision,
        architecture.scorer,
        architecture.glimpse,
    )
    rule = architecture.pruning
    return m.Manifest(
        format_version=m.FORMAT_VERSION,
        exporter=__version__,
        model=m.ModelSpec(
            name=folders.name,
            architecture=architecture.family,
            licence=folders.licence,
            source=m.SourceSpec(
                folders.base_source,
                sources.base_sha256,
                folders.adapter_source,
                sources.adapter,
                folders.lora_source,
                sources.lora_sha256,
                folders.tower_source,
                sources.tower_sha256,
            ),
        ),
        text=m.TextSpec(
            layers=text.layers,
            lower_layers=architecture.lower_layers,
            hidden_size=text.hidden_size,
            heads=text.heads,
            kv_heads=text.kv_heads,
            head_dim=text.head_dim,
            vocab_size=text.vocab_size,
            rope_theta=text.rope_theta,
            rope_sections=text.rope_sections,
        ),
        vision=m.VisionSpec(
            hidden_size=vision.hidden_size,
            patch_size=vision.patch_size,
            merge_size=vision.merge_size,
            taps=scorer.taps,
        ),
        glimpse=m.GlimpseSpec(
            length=glimpse.length,
            reduce_layer=glimpse.reduce_layer,
            selected_layers=glimpse.selected_layers,
            attention="log_softmax" if glimpse.log_softmax else "scores",
        ),
        scorer=m.ScorerSpec(
            kind="AttnFuserV1" if scorer.conditioned else "AttnFuserV2",
            scope="image" if scorer.window is None else "window",
            head_dim=scorer.head_dim,
            rope_theta=SCORER_ROPE_THETA,
            output_rows=2 if scorer.attention_row else 1,
        ),
        pruning=m.PruningDefaults(rule.threshold, rule.max_keep_ratio, rule.min_keep, rule.anchors),
        generation=m.GenerationDefaults(architecture.repetition_penalty),
        tokens=m.TokenIds(architecture.tokens.image, architecture.tokens.video, architecture.tokens.eos),
        prompt=prompt,
        embedding=embedding_spec(plan),
        precision={**dataclasses.asdict(plan.options.precision), "score": DEFAULT_PRECISION},
        profiles=plan.profiles,
        family=plan.family.record(architecture, plan.images),
        graphs={name: {} for name in plan.options.dialects},
        files={},
        stamps=stamps,
    )


def without_files(manifest: m.Manifest) -> m.Manifest:
    """Returns a manifest as ``draft_manifest`` made it."""
    return dataclasses.replace(manifest, graphs={name: {} for name in manifest.dialects}, files={}, sha256="")
