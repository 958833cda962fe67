"""A checked export that has not been run, as plain data."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glimpse_export.model.architecture import Architecture
from glimpse_export.model.family import Family, ModelConfigs
from glimpse_export.planning.options import ExportOptions
from glimpse_export.planning.profiles import make_profiles
from glimpse_export.source.adapter import Adapter
from glimpse_export.source.checkpoint import Checkpoint
from glimpse_export.source.lora.adapter import Lora
from glimpse_export.source.resolve import ModelFolders
from glimpse_export.weights.precision import STORED_DTYPES
from glimpse_runtime.bundle.manifest import Profile, PromptSpec


@dataclass(frozen=True)
class Plan:
    """A checked export that has not been run.

    Attributes:
        options: what was asked for.
        folders: the model's folders.
        configs: its configuration files.
        family: what is particular to models of its architecture.
        architecture: the model.
        images: its image rules, in the family's form, such that any image is shrunk to what the profiles take.
        profiles: ranges of the named dimensions.
        checkpoint: the base weights, headers read; with a LoRA adapter merged as they are read.
        adapter: the GlimpsePrune adapter's weights.
        lora: the LoRA adapter, None without one.
        pruners: files with trained weights of pruning methods, from the GlimpsePrune adapter's folder.
        prompt: the chat template's pieces, None for a bundle that takes token ids only.
        is_known: it was made from known sizes, without a file; it can be forecast and not be carried out.
    """

    options: ExportOptions
    folders: ModelFolders
    configs: ModelConfigs
    family: Family
    architecture: Architecture
    images: Any
    profiles: dict[str, Profile]
    checkpoint: Checkpoint
    adapter: Adapter
    lora: Lora | None
    pruners: tuple[Path, ...] = ()
    prompt: PromptSpec | None = None
    is_known: bool = False

    @property
    def embedding_dtype(self) -> str:
        """Stored dtype of the embedding table: the checkpoint's, or the LM head's when that reads the same bytes."""
        head = self.options.precision.head
        if self.architecture.text.tied and head in STORED_DTYPES:
            return STORED_DTYPES[head]
        return self.checkpoint.dtypes["model.embed_tokens.weight"]

    def with_options(self, options: ExportOptions) -> "Plan":
        """Returns the plan of the same model with another precision or smaller limits.

        Raises:
            UnsupportedError: the limits are too small for the model.
        """
        profiles = make_profiles(options, self.family, self.architecture, self.images)
        images = self.family.fitting(self.images, profiles["visual_tokens"].max)
        return dataclasses.replace(self, options=options, profiles=profiles, images=images)
