"""What export needs of Qwen2.5-VL; see ``glimpse_export.model.family.Family``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from glimpse_export.errors import UnsupportedError
from glimpse_export.graphs.dialects import Dialect
from glimpse_export.model.architecture import Architecture
from glimpse_export.model.family import ModelConfigs
from glimpse_export.model.fields import Config
from glimpse_export.model.size_fields import SizeFields
from glimpse_export.source.checkpoint import Checkpoint
from glimpse_export.source.tokenizer import TOKENIZER, TOKENIZER_FILES, template_prompt, write_tokenizer
from glimpse_models.qwen2_5_vl import ARCHITECTURE
from glimpse_models.qwen2_5_vl.heavy import configuration, image_rules, vision
from glimpse_models.qwen2_5_vl.heavy.architecture import ROPE_THETA, QwenVision
from glimpse_models.qwen2_5_vl.heavy.estimate import working_values
from glimpse_models.qwen2_5_vl.heavy.limits import fitting, visual_tokens, window_profiles
from glimpse_models.qwen2_5_vl.heavy.reference import BaseModel
from glimpse_models.qwen2_5_vl.light.record import ImageRules, Record
from glimpse_runtime.bundle.manifest import Profile, PromptSpec
from glimpse_runtime.bundle.records import plain

# transformers 4.52 and later nest the two towers; published checkpoints do not.
_RENAMES = (("model.language_model.", "model."), ("model.visual.", "visual."))


class Qwen25VL:
    """The export's side of the family."""

    architecture = ARCHITECTURE

    def vision_tower(self, base: Config) -> str | None:
        """The vision encoder lies among the base's weights."""
        return None

    def keeps_own_tower(self, base: Config) -> bool:
        """There is no other."""
        return True

    def read_architecture(self, configs: ModelConfigs) -> Architecture:
        """Reads the description of a model."""
        return configuration.read_architecture(configs)

    def read_images(self, configs: ModelConfigs, architecture: Architecture) -> ImageRules:
        """Reads the image rules."""
        return image_rules.read_image_rules(configs.images, _vision(architecture), configs.name("images"))

    def tensor_name(self, key: str, of_tower: bool = False) -> str | None:
        """Returns the name of a tensor in published checkpoints, whatever version of transformers has written it."""
        for new, old in _RENAMES:
            if key.startswith(new):
                return old + key[len(new) :]
        return key

    def vision_tensors(self, architecture: Architecture) -> Mapping[str, tuple[int, ...]]:
        """Returns name and shape of every tensor of the vision encoder."""
        return vision.expected_tensors(_vision(architecture))

    def spare_tensors(self, architecture: Architecture) -> tuple[str, ...]:
        """Returns nothing: all that a checkpoint holds is used."""
        return ()

    def size_fields(self) -> SizeFields:
        """Returns what the sizes of the vision encoder's tensors are called in the configuration."""
        return configuration.SIZE_FIELDS

    def vision_author(
        self,
        architecture: Architecture,
        checkpoint: Checkpoint,
        dialect: Dialect,
        precision: str,
        attention: bool,
        trace: bool,
    ) -> vision.VisionAuthor:
        """Returns the author of the vision graph."""
        return vision.VisionAuthor(
            _vision(architecture), architecture.scorer.taps, checkpoint, dialect, precision, attention
        )

    def vision_update_author(
        self, architecture: Architecture, checkpoint: Checkpoint, dialect: Dialect, precision: str
    ) -> vision.VisionAuthor | None:
        """Returns the author of the vision graph that runs changed patches; None where no block sees the others."""
        tower = _vision(architecture)
        if not tower.full_attention:
            return None
        return vision.VisionAuthor(tower, architecture.scorer.taps, checkpoint, dialect, precision, update=True)

    def check_vision_attention(self, architecture: Architecture, where: str) -> None:
        """Refuses an encoder of windows alone."""
        if not _vision(architecture).full_attention:
            raise UnsupportedError(
                f"{where}: no vision block attends to the whole image, so no token receives attention to choose by; "
                "leave out --vision-attention"
            )

    def visual_tokens(self, images: ImageRules) -> tuple[int, int]:
        """Returns the visual tokens of the smallest and of the largest image."""
        return visual_tokens(images)

    def fitting(self, images: ImageRules, visual_tokens: int) -> ImageRules:
        """Returns the rules with a smaller ``max_pixels`` where the profile asks for it."""
        return fitting(images, visual_tokens)

    def max_pixels(self, images: ImageRules) -> int:
        """Returns the pixels of the largest image."""
        return images.max_pixels

    def image_text(self, images: ImageRules) -> str:
        """Returns the size limit in words."""
        return f"up to {images.max_pixels / 1e6:,.1f} megapixels, larger ones are shrunk"

    def profiles(self, architecture: Architecture, usual: int, largest: int) -> dict[str, Profile]:
        """Returns the ranges of attention windows."""
        return window_profiles(_vision(architecture), usual, largest)

    def record(self, architecture: Architecture, images: ImageRules) -> dict[str, Any]:
        """Returns the manifest's record."""
        tower = _vision(architecture)
        found: dict[str, Any] = plain(Record(tower.window_size, tower.head_dim, ROPE_THETA, images))
        return found

    def vision_working_values(self, architecture: Architecture, patches: int) -> int:
        """Returns how many numbers the vision encoder holds at its widest moment."""
        return working_values(_vision(architecture), patches)

    def read_prompt(self, base: Path, architecture: Architecture) -> PromptSpec:
        """Cuts the chat template."""
        return template_prompt(base, architecture)

    def tokenizer_files(self, base: Path) -> tuple[Path, ...]:
        """Returns the checkpoint's ``tokenizer.json`` and the files that add to it."""
        return tuple(base / name for name in TOKENIZER_FILES if (base / name).is_file())

    def write_tokenizer(self, base: Path, architecture: Architecture, target: Path) -> None:
        """Copies the checkpoint's, with the tokens that the files beside it add."""
        write_tokenizer(base / TOKENIZER, architecture, target)

    def reference(self, configs: ModelConfigs) -> BaseModel:
        """Returns transformers' own model without weights."""
        return BaseModel(configs)


def _vision(architecture: Architecture) -> QwenVision:
    return cast(QwenVision, architecture.vision)


FAMILY = Qwen25VL()
