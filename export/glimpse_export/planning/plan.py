"""What an export will write, worked out from configuration files and tensor headers alone."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from glimpse_export.errors import UnsupportedError
from glimpse_export.forecast.budget import require_fit
from glimpse_export.graphs import decoder, vision
from glimpse_export.graphs.dialects import DIALECTS, dialect
from glimpse_export.model.architecture import Architecture
from glimpse_export.model.configuration import read_architecture
from glimpse_export.model.image_rules import read_image_rules
from glimpse_export.planning.options import ExportOptions
from glimpse_export.planning.profiles import make_profiles, token_pixels
from glimpse_export.source.adapter import Adapter
from glimpse_export.source.checkpoint import Checkpoint, read_json
from glimpse_export.source.lora import Lora
from glimpse_export.source.merged import MergedCheckpoint
from glimpse_export.source.resolve import ModelFolders, resolve
from glimpse_export.source.trained_pruners import find_files
from glimpse_export.weights.precision import STORED_DTYPES
from glimpse_export.write.stages import WEIGHT_STAGES
from glimpse_runtime.bundle.manifest import ImageRules, Profile


@dataclass(frozen=True)
class Plan:
    """A checked export that has not been run.

    Attributes:
        options: what was asked for.
        folders: the model's folders.
        architecture: the model.
        images: its image rules, such that any image is shrunk to what the profiles take.
        profiles: ranges of the named dimensions.
        checkpoint: the base weights, headers read; with a LoRA adapter merged as they are read.
        adapter: the GlimpsePrune adapter's weights.
        lora: the LoRA adapter, None without one.
        pruners: files with trained weights of pruning methods, from the GlimpsePrune adapter's folder.
    """

    options: ExportOptions
    folders: ModelFolders
    architecture: Architecture
    images: ImageRules
    profiles: dict[str, Profile]
    checkpoint: Checkpoint
    adapter: Adapter
    lora: Lora | None
    pruners: tuple[Path, ...] = ()

    @property
    def embedding_dtype(self) -> str:
        """Stored dtype of the embedding table: the checkpoint's, or the LM head's when that reads the same bytes."""
        head = self.options.precision.head
        if self.architecture.text.tied and head in STORED_DTYPES:
            return STORED_DTYPES[head]
        return self.checkpoint.dtypes["model.embed_tokens.weight"]

    def weight_bytes(self) -> dict[str, int]:
        """Returns the size of every file of weights in the bundle."""
        return {stage.file: stage.layout(self).nbytes for stage in WEIGHT_STAGES}

    def with_options(self, options: ExportOptions) -> "Plan":
        """Returns the plan of the same model with another precision or smaller limits.

        Raises:
            UnsupportedError: the limits are too small for the model.
        """
        profiles = make_profiles(options, self.architecture, self.images)
        images = _fitting(self.images, profiles["visual_tokens"].max)
        return dataclasses.replace(self, options=options, profiles=profiles, images=images)


def plan(options: ExportOptions) -> Plan:
    """Resolves a model, reads its configuration and headers, and checks that it can be exported.

    Raises:
        ExportError: anything that would make the export fail later.
    """
    _check_dialects(options)
    folders = resolve(options.model, options.adapter, options.revision, options.lora)
    base_config, adapter_config = folders.base / "config.json", folders.adapter / "config.json"
    generation_config = folders.base / "generation_config.json"
    architecture = read_architecture(
        read_json(base_config),
        read_json(adapter_config),
        read_json(generation_config, missing_ok=True),
        str(base_config),
        str(adapter_config),
        str(generation_config),
    )
    preprocessor = folders.base / "preprocessor_config.json"
    images = read_image_rules(read_json(preprocessor), architecture.vision, str(preprocessor))
    if options.vision_attention and not architecture.vision.full_attention:
        raise UnsupportedError(
            f"{base_config}: no vision block attends to the whole image, so no token receives attention to choose by; "
            "leave out --vision-attention"
        )
    lora = None if folders.lora is None else Lora(folders.lora)
    checkpoint = Checkpoint(folders.base) if lora is None else MergedCheckpoint(folders.base, lora)
    expected = decoder.expected_tensors(architecture) | vision.expected_tensors(architecture)
    checkpoint.check(expected, architecture.text.tied)
    adapter = Adapter(folders.adapter)
    adapter.check(architecture)
    profiles = make_profiles(options, architecture, images)
    images = _fitting(images, profiles["visual_tokens"].max)
    pruners = find_files(folders.adapter, architecture.text.hidden_size)
    checked = Plan(options, folders, architecture, images, profiles, checkpoint, adapter, lora, pruners)
    if options.budget is not None:
        require_fit(checked, options.budget)
    return checked


def _check_dialects(options: ExportOptions) -> None:
    if not options.dialects:
        raise UnsupportedError(f"no dialect was asked for; this version writes: {', '.join(DIALECTS)}")
    for name in options.dialects:
        known, cache = dialect(name).cache_precisions, options.precision.kv_cache
        if cache not in known:
            raise UnsupportedError(
                f"dialect {name} has no KV cache of {cache}; choose --kv-cache-precision {' or '.join(known)}"
            )


def _fitting(images: ImageRules, visual_tokens: int) -> ImageRules:
    """Returns the rules with ``max_pixels`` such that larger images are shrunk to what the profile takes.

    Images within the new limit are prepared as before.
    """
    return dataclasses.replace(images, max_pixels=min(images.max_pixels, visual_tokens * token_pixels(images)))
