"""transformers' own LLaVA, weights of one layer at a time, for the certificate.

This file is the only one of the family that knows transformers, versions 4.57 and later. It reads the original's
configuration by itself, in both layouts.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from glimpse_export.certify.reference.base import (
    Arrangement,
    Layer,
    StandIn,
    Visit,
    layers_are_wrapped,
    stand_in,
    tensor_names,
)
from glimpse_export.certify.reference.libraries import lacking
from glimpse_export.model.family import ModelConfigs
from glimpse_runtime.arrays import FloatArray, IntArray

# The reference's default, for an adapter that does not say; numbers of hidden states, of which 0 is before the first
# block.
_TAPS = (23, 17, 11, 5)
_SELECTED = -2
_TOWER, _PROJECTOR = "vision_model.", "model.mm_projector."
_NOT_OF_THE_MODEL = ("model_type", "dtype", "torch_dtype", "architectures", "transformers_version")


class LlavaReference:
    """transformers' LLaVA without weights."""

    def __init__(self, configs: ModelConfigs) -> None:
        """Builds the model from the configuration files of the base, its vision tower and the adapter.

        Raises:
            CertificateError: transformers is not installed, or too old.
        """
        try:
            from transformers.models.llava.modeling_llava import LlavaModel
        except ImportError as error:
            raise lacking(f"a transformers with LLaVA ({error})") from None
        self._images, self._pads = dict(configs.images), configs.adapter.get("image_aspect_ratio") == "pad"
        settings = _settings(configs)
        with torch.device("meta"):
            self._model: Any = LlavaModel(settings)
        self._model.train(False)
        self._tower = _inner(self._model.vision_tower)
        # Rotary frequencies and numbers of positions are computed when a module is made, so these come from modules of
        # the same widths that have memory, and no layers.
        text, vision = copy.deepcopy(settings.text_config), copy.deepcopy(settings.vision_config)
        text.num_hidden_layers, vision.num_hidden_layers, text.vocab_size, text.pad_token_id = 0, 0, 1, None
        self._model.language_model.rotary_emb = type(self._model.language_model)(text).rotary_emb
        tables: Any = type(self._model.vision_tower)(vision)
        self._tower.embeddings.position_ids = _inner(tables).embeddings.position_ids
        self._entry = _Entry(self._tower.embeddings, self._tower.pre_layrnorm)
        self._norm, self._projector = self._model.language_model.norm, _Projector(self._model.multi_modal_projector)
        self._layers, tower_layers = list(self._model.language_model.layers), list(self._tower.encoder.layers)
        self._pixels, self._patch = vision.image_size, vision.patch_size
        self._side = self._pixels // self._patch
        # Hidden states count from what enters block 0.
        behind = range(-1, len(tower_layers))
        self._taps = tuple(behind[number] for number in configs.adapter.get("selected_visual_layers", _TAPS))
        self._selected = behind[settings.vision_feature_layer]
        self._blocks = tower_layers[: max(self._selected, *self._taps) + 1]
        # Now: when it runs, stand-ins without tensors take the place of the layers.
        text_names = {f"model.{name}" for name, _ in self._model.language_model.named_parameters()}
        blocks = (tensor_names(_block_prefix(index), block) for index, block in enumerate(self._blocks))
        self._used = text_names.union(
            tensor_names(_PROJECTOR, self._projector), tensor_names(_TOWER, self._entry), *blocks
        )

    @property
    def names(self) -> set[str]:
        """Names of all tensors that answers depend on: without blocks behind the last one that is read."""
        return self._used

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return len(self._layers)

    @property
    def taps(self) -> tuple[int, ...]:
        """The adapter counts hidden states, the first of which enter block 0."""
        return self._taps

    @property
    def around_image(self) -> tuple[list[int], list[int]]:
        """Images have no marks."""
        return [], []

    def positions(self, ids: IntArray, grids: Sequence[tuple[int, int]]) -> IntArray:
        """Returns the (1, tokens) positions of a prompt: an image's tokens count like words."""
        return np.arange(len(ids))[None]

    def processed(self, image: Image.Image, rules: object) -> tuple[FloatArray, tuple[int, int]]:
        """Returns the patches of an image and their (rows, columns): padded, then by transformers' image processor."""
        processor = _image_processor(self._images)
        if self._pads and image.width != image.height:
            colour = tuple(int(mean * 255) for mean in processor.image_mean)
            canvas = Image.new("RGB", (max(image.size), max(image.size)), colour)
            canvas.paste(image, ((canvas.width - image.width) // 2, (canvas.height - image.height) // 2))
            image = canvas
        pixels = np.asarray(processor(images=image, return_tensors="np")["pixel_values"], np.float32)
        return self._cut(torch.from_numpy(pixels)).numpy(), (self._side, self._side)

    def added_words(self, base: Path) -> None:
        """Returns nothing: the original's tokenizer is sentencepiece, which has no such words."""

    def prompt_ids(self, base: Path, question: str, grids: Sequence[tuple[int, int]], image_token: int) -> list[int]:
        """Returns the ids of a question about an image, by the original's conversation and tokenizer."""
        from glimpse_models.llava_1_5.heavy.reference_prompt import prompt_ids

        return prompt_ids(base, question, [rows * columns for rows, columns in grids], image_token)

    def arrange(self, grids: Sequence[tuple[int, int]]) -> Arrangement:
        """Returns how vision states lie: in order, the class row before an image's patches."""
        patches = sum(rows * columns for rows, columns in grids)

        def tap(hidden: FloatArray) -> FloatArray:
            by_image = hidden.reshape(-1, self._side**2 + 1, hidden.shape[-1])
            found: FloatArray = by_image[:, 1:].reshape(-1, hidden.shape[-1])
            return found

        return Arrangement(torch.arange(patches + len(grids)), torch.arange(patches), tap)

    @torch.no_grad()
    def see(
        self, pixels: FloatArray, grids: Sequence[tuple[int, int]], embed: Visit, block: Visit, merge: Visit
    ) -> None:
        """Runs the vision tower on the patches of some images, each part through its visitor."""
        tower, patches = self._tower, torch.from_numpy(pixels)

        def merged(index: int, rows: torch.Tensor) -> torch.Tensor:
            if index == self._selected:
                projector = self._projector
                names = tensor_names(_PROJECTOR, projector)
                merge(index, Layer(names, _PROJECTOR, projector, (), {}, self._without_class, _joined), rows)
            return self._by_image(rows)

        def entered(_: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
            layer = Layer(
                tensor_names(_TOWER, self._entry), _TOWER, self._entry, args, kwargs, self._joined_patches, _joined
            )
            return merged(-1, embed(0, layer, patches))

        def run(index: int, layer: Layer, hidden: torch.Tensor) -> torch.Tensor:
            by_rows = replace(layer, enter=self._by_image, leave=_joined)
            return merged(index, block(index, by_rows, _joined(hidden)))

        wrapped = layers_are_wrapped()
        tower.embeddings, tower.pre_layrnorm = StandIn(entered), torch.nn.Identity()
        tower.post_layernorm = torch.nn.Identity()
        tower.encoder.layers = torch.nn.ModuleList(
            stand_in(_block_prefix(index), module, index, run, wrapped) for index, module in enumerate(self._blocks)
        )
        tower(pixel_values=self._joined_patches(patches))

    @torch.no_grad()
    def read(
        self, rows: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, layers: range, visit: Visit
    ) -> torch.Tensor:
        """Runs rows through some decoder layers, without the final norm.

        Args:
            rows: (rows, hidden).
            positions: (1, rows).
            mask: (rows, keys) bool, which keys each row sees.
            layers: which layers.
            visit: gets every layer.

        Returns:
            (rows, hidden) after the last of them.
        """
        text = self._model.language_model
        text.layers = torch.nn.ModuleList(
            stand_in(f"model.layers.{index}.", self._layers[index], index, visit) for index in layers
        )
        text.norm = torch.nn.Identity()
        allowed = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        out = text(
            inputs_embeds=rows[None], position_ids=positions, attention_mask=allowed[None, None], use_cache=False
        )
        found: torch.Tensor = out.last_hidden_state[0]
        return found

    def final_norm(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Returns rows after the decoder's last norm."""
        out: torch.Tensor = torch.func.functional_call(self._norm, {"weight": weight}, (rows,))
        return out

    def _cut(self, pixels: torch.Tensor) -> torch.Tensor:
        """(images * patches, values) of (images, channels, height, width); what no whole patch holds is left out."""
        parts = torch.nn.functional.unfold(pixels, self._patch, stride=self._patch)
        return parts.transpose(1, 2).flatten(0, 1).contiguous()

    def _joined_patches(self, patches: torch.Tensor) -> torch.Tensor:
        """(images, channels, height, width) of (images * patches, values); what no patch holds is zero."""
        parts = patches.view(-1, self._side**2, patches.shape[-1]).transpose(1, 2)
        return torch.nn.functional.fold(parts, self._pixels, self._patch, stride=self._patch)

    def _by_image(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.view(-1, self._side**2 + 1, rows.shape[-1])

    def _without_class(self, rows: torch.Tensor) -> torch.Tensor:
        return self._by_image(rows)[:, 1:]


class _Entry(torch.nn.Module):
    """What turns pixels into the states before the first block."""

    def __init__(self, embeddings: torch.nn.Module, pre_layrnorm: torch.nn.Module) -> None:
        super().__init__()
        self.embeddings, self.pre_layrnorm = embeddings, pre_layrnorm

    def forward(self, pixels: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.pre_layrnorm(self.embeddings(pixels, *args, **kwargs))


class _Projector(torch.nn.Module):
    """transformers' projector, its tensors called as the authors call them."""

    def __init__(self, projector: Any) -> None:
        super().__init__()
        self.add_module("0", projector.linear_1)
        self.add_module("2", projector.linear_2)
        self._own = projector.forward

    def forward(self, rows: torch.Tensor) -> Any:
        return self._own(rows)


def _settings(configs: ModelConfigs) -> Any:
    """Returns the description of the model in the words of transformers."""
    from transformers import CLIPConfig, CLIPVisionConfig, LlamaConfig, LlavaConfig

    base = _plain(configs.base)
    if base.get("mm_vision_tower") is not None:
        tower = _plain(configs.tower)
        halves: dict[str, Any] = {
            key: _plain(tower[key]) for key in ("vision_config", "vision_config_dict") if tower.get(key)
        }
        return LlavaConfig(
            vision_config=CLIPConfig(**halves).vision_config if halves else CLIPVisionConfig(**tower),
            text_config=LlamaConfig(**base),
            projector_hidden_act="gelu",
            vision_feature_layer=base.get("mm_vision_select_layer", _SELECTED),
        )
    parts = {key: _plain(base[key], "model_type") for key in ("text_config", "vision_config") if base.get(key)}
    return LlavaConfig(**{**base, **parts})


def _plain(config: Any, *kept: str) -> dict[str, Any]:
    """Fields of a configuration, without those that say how its file came to be."""
    return {key: value for key, value in dict(config).items() if key in kept or key not in _NOT_OF_THE_MODEL}


def _image_processor(config: dict[str, Any]) -> Any:
    try:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        return CLIPImageProcessorPil(**config)
    except ImportError:  # before transformers 5 the processor for Pillow images had the plain name
        from transformers.models.clip.image_processing_clip import CLIPImageProcessor

        return CLIPImageProcessor(**config)


def _inner(tower: Any) -> Any:
    """The module with embeddings and blocks, which transformers 4 wraps once more."""
    return getattr(tower, "vision_model", tower)


def _block_prefix(index: int) -> str:
    return f"{_TOWER}encoder.layers.{index}."


def _joined(states: torch.Tensor) -> torch.Tensor:
    """(rows, width) of (images, rows of one, width)."""
    return states.flatten(0, 1)
