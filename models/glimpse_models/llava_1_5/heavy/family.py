"""What export needs of LLaVA-1.5; see ``glimpse_export.model.family.Family``."""

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
from glimpse_models.llava_1_5 import ARCHITECTURE
from glimpse_models.llava_1_5.heavy import configuration, image_rules, layouts, limits, vision
from glimpse_models.llava_1_5.heavy.architecture import LlavaVision
from glimpse_models.llava_1_5.heavy.estimate import working_values
from glimpse_models.llava_1_5.heavy.reference import LlavaReference
from glimpse_models.llava_1_5.light.record import ImageRules, Record
from glimpse_runtime.bundle.manifest import Profile, PromptSpec
from glimpse_runtime.bundle.records import plain

_WIDTH = "the tower's hidden_size"
_TOWER_AXES = {
    r"vision_model\.embeddings\.position_embedding\.weight": ("the tower's image_size or patch_size", _WIDTH),
    r"vision_model\.embeddings\.patch_embedding\.weight": (_WIDTH, "num_channels", "patch_size", "patch_size"),
    r"vision_model\..+\.mlp\.fc1\..+": ("the tower's intermediate_size", _WIDTH),
    r"vision_model\..+\.mlp\.fc2\.weight": (_WIDTH, "the tower's intermediate_size"),
    r"vision_model\..+": (_WIDTH, _WIDTH),
}


class Llava15:
    """The export's side of the family."""

    architecture = ARCHITECTURE

    def vision_tower(self, base: Config) -> str | None:
        """Returns the tower that an authors' base names; llava-hf's bases hold theirs."""
        return layouts.named_tower(base)

    def keeps_own_tower(self, base: Config) -> bool:
        """Whether a tower among the base's weights counts before the named one: it was trained with the rest."""
        return base.get("unfreeze_mm_vision_tower") is True

    def read_architecture(self, configs: ModelConfigs) -> Architecture:
        """Reads the description of a model."""
        return configuration.read_architecture(configs)

    def read_images(self, configs: ModelConfigs, architecture: Architecture) -> ImageRules:
        """Reads the image rules."""
        return image_rules.read_image_rules(configs, _vision(architecture))

    def tensor_name(self, key: str, of_tower: bool = False) -> str | None:
        """Returns the name of a tensor, whatever layout and version of transformers it was written in."""
        return layouts.tensor_name(key, of_tower)

    def vision_tensors(self, architecture: Architecture) -> Mapping[str, tuple[int, ...]]:
        """Returns name and shape of every tensor of the tower and the projector that is used."""
        return vision.expected_tensors(_vision(architecture))

    def spare_tensors(self, architecture: Architecture) -> set[str]:
        """Returns the tensors of the blocks that nothing is read of."""
        return vision.spare_tensors(_vision(architecture))

    def size_fields(self) -> SizeFields:
        """Returns what the sizes of the tower's tensors are called in the configuration."""
        return SizeFields(
            axes={r"model\.mm_projector\.\d\..+": ("hidden_size", "the tower's hidden_size"), **_TOWER_AXES},
            counts={r"vision_model\.encoder\.layers\.\d+\..+": "the tower's num_hidden_layers"},
        )

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
            _vision(architecture), architecture.scorer.taps, checkpoint, dialect, precision, attention, trace
        )

    def vision_update_author(
        self, architecture: Architecture, checkpoint: Checkpoint, dialect: Dialect, precision: str
    ) -> None:
        """Returns nothing: every block of CLIP attends to the whole image."""
        return

    def check_vision_attention(self, architecture: Architecture, where: str) -> None:
        """Refuses a projector that reads the state before the first block."""
        if _vision(architecture).projected < 0:
            raise UnsupportedError(
                f"{where}: the projector reads the state before the first vision block, so no token receives attention "
                "to choose by; leave out --vision-attention"
            )

    def visual_tokens(self, images: ImageRules) -> tuple[int, int]:
        """Returns the visual tokens of an image, twice."""
        return limits.visual_tokens(images)

    def fitting(self, images: ImageRules, visual_tokens: int) -> ImageRules:
        """Returns the same rules: all images have as many visual tokens."""
        return images

    def max_pixels(self, images: ImageRules) -> int:
        """Returns the pixels of every image."""
        return limits.max_pixels(images)

    def image_text(self, images: ImageRules) -> str:
        """Returns the size in words."""
        return limits.image_text(images)

    def profiles(self, architecture: Architecture, usual: int, largest: int) -> dict[str, Profile]:
        """Returns the number of patches, which is the same for all images."""
        tokens = _vision(architecture).tokens
        return {"patches": Profile(tokens, tokens, tokens)}

    def record(self, architecture: Architecture, images: ImageRules) -> dict[str, Any]:
        """Returns the manifest's record."""
        found: dict[str, Any] = plain(Record(images))
        return found

    def vision_working_values(self, architecture: Architecture, patches: int) -> int:
        """Returns how many numbers the vision tower holds at its widest moment."""
        return working_values(_vision(architecture), patches)

    def read_prompt(self, base: Path, architecture: Architecture) -> PromptSpec:
        """Checks the tokenizer and returns the pieces of the prompt."""
        from glimpse_models.llava_1_5.heavy.text.prompt import read_prompt

        return read_prompt(base, architecture)

    def tokenizer_files(self, base: Path) -> tuple[Path, ...]:
        """Returns the file that the bundle's tokenizer is made of, and those that are compared with it."""
        from glimpse_models.llava_1_5.heavy.text.prompt import files

        return files(base)

    def write_tokenizer(self, base: Path, architecture: Architecture, target: Path) -> None:
        """Writes the bundle's ``tokenizer.json``."""
        from glimpse_models.llava_1_5.heavy.text.tokenizer import write_tokenizer

        write_tokenizer(base, architecture, target)

    def reference(self, configs: ModelConfigs) -> LlavaReference:
        """Returns transformers' own model without weights."""
        return LlavaReference(configs)


def _vision(architecture: Architecture) -> LlavaVision:
    return cast(LlavaVision, architecture.vision)


FAMILY = Llava15()
"""What ``glimpse_models.families`` finds."""
