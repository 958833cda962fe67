"""What a model family brings to export, found by the ``model_type`` of a checkpoint's ``config.json``.

A family's module ``heavy.family`` has one object ``FAMILY`` of this form. Names of tensors are those that the decoder's
author and the certificate use: the family's ``tensor_name`` turns a file's names into them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from glimpse_export.errors import UnsupportedError
from glimpse_export.model.architecture import Architecture
from glimpse_export.model.fields import Config, Fields, read_json
from glimpse_export.model.size_fields import SizeFields
from glimpse_models.families import FAMILIES, heavy
from glimpse_runtime.bundle.manifest import Profile, PromptSpec

if TYPE_CHECKING:  # the rooms above, whose objects a family's methods are handed
    from glimpse_export.certify.reference.base import Reference
    from glimpse_export.graphs.dialects import Dialect
    from glimpse_export.source.checkpoint import Checkpoint


@dataclass(frozen=True)
class ModelConfigs:
    """The configuration files of a model, and what to call them in errors.

    Attributes:
        base: the base's ``config.json``.
        adapter: the GlimpsePrune adapter's ``config.json``.
        generation: the base's ``generation_config.json``, empty without one.
        images: how images are prepared: the ``image_processor`` of the base's ``processor_config.json`` or its
            ``preprocessor_config.json``, empty without either.
        other_images: the latter where both say it, else empty.
        tower: the ``config.json`` of a vision tower that lies in a folder of its own, empty without one.
        names: paths by the names of the fields above.
    """

    base: Config
    adapter: Config
    generation: Config = field(default_factory=dict)
    images: Config = field(default_factory=dict)
    other_images: Config = field(default_factory=dict)
    tower: Config = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, base: Path, adapter: Path, tower: Path | None = None) -> "ModelConfigs":
        """Reads the files of a model's folders.

        Raises:
            CheckpointError: one that must be there is missing, or is not a JSON object.
        """
        images = base if tower is None else tower
        paths = {
            "base": base / "config.json",
            "adapter": adapter / "config.json",
            "generation": base / "generation_config.json",
            "images": images / "preprocessor_config.json",
        }
        optional = {key: read_json(paths[key], missing_ok=True) for key in ("generation", "images")}
        processor = images / "processor_config.json"
        nested = Fields(read_json(processor, missing_ok=True), str(processor)).nested("image_processor")
        if nested:  # it comes first in transformers too
            optional |= {"images": dict(nested), "other_images": optional["images"]}
            paths |= {"images": processor, "other_images": paths["images"]}
        if tower is not None:
            paths["tower"] = tower / "config.json"
            optional["tower"] = read_json(paths["tower"])
        return cls(
            read_json(paths["base"]),
            read_json(paths["adapter"]),
            **optional,
            names={key: str(path) for key, path in paths.items()},
        )

    def name(self, key: str) -> str:
        """Returns what to call a file in errors."""
        return self.names.get(key, key)


class VisionAuthor(Protocol):
    """Writes the vision graph of one dialect."""

    def author(self, g: Any) -> None:
        """Authors the whole encoder into an empty graph.

        Inputs are ``pixel_values`` (patches, values) and what the family's light half gives; outputs ``image_embeds``
        (visual tokens, hidden) and ``features`` (taps, visual tokens, vision hidden). The states behind the patch
        embedding and every block are marked ``patch_embed`` and ``block.N``.
        """
        ...


class Family(Protocol):
    """The heavy half of a model family."""

    architecture: str

    def vision_tower(self, base: Config) -> str | None:
        """Returns the hub id or folder of a vision tower that is not among the base's files, None where it is."""
        ...

    def keeps_own_tower(self, base: Config) -> bool:
        """Whether tensors of a vision tower among the base's count before those of ``vision_tower``."""
        ...

    def read_architecture(self, configs: ModelConfigs) -> Architecture:
        """Reads the description of a model from its configuration files.

        Raises:
            CheckpointError: a field is missing or makes no sense.
            UnsupportedError: the model needs something this version cannot export.
        """
        ...

    def read_images(self, configs: ModelConfigs, architecture: Architecture) -> Any:
        """Reads how images become patches, in a form of the family's own."""
        ...

    def tensor_name(self, key: str, of_tower: bool = False) -> str | None:
        """Returns what a tensor of the base's or the tower's files is called here, None for one that is not used."""
        ...

    def vision_tensors(self, architecture: Architecture) -> Mapping[str, tuple[int, ...]]:
        """Returns name and shape of every tensor of the vision encoder that its graph reads."""
        ...

    def spare_tensors(self, architecture: Architecture) -> Collection[str]:
        """Returns the names of tensors that checkpoints have and nothing is computed from."""
        ...

    def size_fields(self) -> SizeFields:
        """Returns what the sizes of the vision encoder's tensors are called in the configuration."""
        ...

    def vision_author(
        self,
        architecture: Architecture,
        checkpoint: "Checkpoint",
        dialect: "Dialect",
        precision: str,
        attention: bool,
        trace: bool,
    ) -> VisionAuthor:
        """Returns the author of the vision graph.

        Args:
            architecture: the model.
            checkpoint: its weights.
            dialect: how to spell the graph.
            precision: what its matrices are stored in.
            attention: the graph also gives how much attention each visual token receives.
            trace: the graph also gives intermediate states, for conformance tests.
        """
        ...

    def vision_update_author(
        self, architecture: Architecture, checkpoint: "Checkpoint", dialect: "Dialect", precision: str
    ) -> VisionAuthor | None:
        """Returns the author of the vision graph that runs the changed patches of an image again.

        It reads the weights of the vision graph. Beside that graph's inputs, for the patches that are run, it takes
        ``rows`` (patches run,) int64, their numbers, and keys and values of all patches for every block that attends
        to the whole image, as ``past.BLOCK.key|value``, which it gives back as ``present.BLOCK.key|value``.

        Returns:
            None where the family's encoder cannot be run in parts.
        """
        ...

    def check_vision_attention(self, architecture: Architecture, where: str) -> None:
        """Checks that the encoder can give how much attention each token receives.

        Raises:
            UnsupportedError: it cannot.
        """
        ...

    def visual_tokens(self, images: Any) -> tuple[int, int]:
        """Returns the visual tokens of the smallest and of the largest image."""
        ...

    def fitting(self, images: Any, visual_tokens: int) -> Any:
        """Returns image rules under which no image has more visual tokens; others are prepared as before."""
        ...

    def max_pixels(self, images: Any) -> int:
        """Returns the pixels of the largest image that the model sees."""
        ...

    def image_text(self, images: Any) -> str:
        """Returns in words what size of images the model sees."""
        ...

    def profiles(self, architecture: Architecture, usual: int, largest: int) -> dict[str, Profile]:
        """Returns the ranges of dimensions that only this family's graphs have, or that differ from others'.

        Args:
            architecture: the model.
            usual: visual tokens of the most frequent image.
            largest: visual tokens of the largest.
        """
        ...

    def record(self, architecture: Architecture, images: Any) -> dict[str, Any]:
        """Returns the manifest's ``family`` record as plain JSON values."""
        ...

    def vision_working_values(self, architecture: Architecture, patches: int) -> int:
        """Returns how many float32 numbers the vision encoder holds at its widest moment."""
        ...

    def read_prompt(self, base: Path, architecture: Architecture) -> PromptSpec:
        """Checks the tokenizer and returns the pieces of the prompt.

        Raises:
            CheckpointError: a file is missing or damaged, or the two do not fit the model.
        """
        ...

    def tokenizer_files(self, base: Path) -> tuple[Path, ...]:
        """Returns the files of a folder that the bundle's tokenizer is made of, or compared with."""
        ...

    def write_tokenizer(self, base: Path, architecture: Architecture, target: Path) -> None:
        """Writes the bundle's ``tokenizer.json``."""
        ...

    def reference(self, configs: ModelConfigs) -> "Reference":
        """Returns the original without weights, for the certificate.

        Raises:
            CertificateError: a library it needs is not installed, or too old.
        """
        ...


def find_family(base: Config, where: str) -> Family:
    """Returns the family of a checkpoint.

    Args:
        base: its ``config.json``.
        where: what to call that in errors.

    Raises:
        UnsupportedError: no family has its ``model_type``.
    """
    kind = base.get("model_type")
    module = heavy(kind)
    if module is None:
        known = ", ".join(sorted(name for family in FAMILIES for name in family.MODEL_TYPES))
        raise UnsupportedError(f"{where}: model_type {kind!r} is not supported; this version exports {known}")
    found: Family = module.FAMILY
    return found
