"""transformers' own Qwen2.5-VL, weights of one layer at a time, for the certificate.

This file is the only one of the family that knows transformers, versions 4.57 and later.
"""

import copy
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from glimpse_export.certify.reference.base import Arrangement, Visit, layers_are_wrapped, stand_in
from glimpse_export.certify.reference.libraries import lacking
from glimpse_export.errors import CertificateError
from glimpse_export.model.family import ModelConfigs
from glimpse_export.source.template import read_template
from glimpse_models.qwen2_5_vl.light.record import ImageRules
from glimpse_runtime.arrays import FloatArray, IntArray
from glimpse_runtime.interrupt import Interrupt

# The reference's default, for an adapter that does not say.
_TAPS = (8,)
# Longer no template may take; export has rendered it before.
_TEMPLATE_SECONDS = 10


class BaseModel:
    """transformers' Qwen2.5-VL without weights."""

    def __init__(self, configs: ModelConfigs) -> None:
        """Builds the model from the base checkpoint's ``config.json``; the adapter's names the taps.

        Raises:
            CertificateError: transformers is not installed, or too old.
        """
        try:
            from transformers import Qwen2_5_VLConfig
            from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
        except ImportError as error:
            raise lacking(f"a transformers with Qwen2.5-VL ({error})") from None
        settings: Any = Qwen2_5_VLConfig(
            **{key: value for key, value in copy.deepcopy(dict(configs.base)).items() if key != "dtype"}
        )
        with torch.device("meta"):
            self._model: Any = Qwen2_5_VLModel(settings)
        self._model.train(False)
        self._image_token = settings.image_token_id
        marks = [configs.base.get(f"vision_{which}_token_id") for which in ("start", "end")]
        self._marks = [[] if mark is None else [int(mark)] for mark in marks]
        self._taps = tuple(configs.adapter.get("selected_visual_layers", _TAPS))
        # Rotary frequencies are computed when a module is made, so these come from a model of the same widths that
        # has memory, and no layers.
        bare = copy.deepcopy(settings)
        bare.vision_config.depth, bare.text_config.num_hidden_layers, bare.text_config.vocab_size = 0, 0, 1
        bare.text_config.pad_token_id = None
        tables = Qwen2_5_VLModel(bare)
        self._model.visual.rotary_pos_emb = tables.visual.rotary_pos_emb
        self._model.language_model.rotary_emb = tables.language_model.rotary_emb
        self._blocks, self._layers = list(self._model.visual.blocks), list(self._model.language_model.layers)
        self._norm = self._model.language_model.norm
        # Now: when it runs, stand-ins without tensors take the place of the layers.
        self._tokenizers: dict[Path, Any] = {}
        self._names = frozenset(name for name, _ in self._model.named_parameters())

    @property
    def names(self) -> set[str]:
        """Names of all tensors of the model in a published checkpoint, without the LM head."""
        names = self._names
        return {name if name.startswith("visual.") else f"model.{name[len('language_model.') :]}" for name in names}

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return len(self._layers)

    @property
    def taps(self) -> tuple[int, ...]:
        """The adapter counts blocks from 0."""
        return self._taps

    @property
    def around_image(self) -> tuple[list[int], list[int]]:
        """The marks by which ``positions`` finds images."""
        start, end = self._marks
        return start, end

    def positions(self, ids: IntArray, grids: Sequence[tuple[int, int]]) -> IntArray:
        """Returns the (3, tokens) rope positions of a prompt; grids are (rows, columns) of patches."""
        thw = torch.tensor([[1, rows, columns] for rows, columns in grids])
        given: dict[str, Any] = {"input_ids": torch.from_numpy(ids)[None], "image_grid_thw": thw if grids else None}
        if "mm_token_type_ids" in inspect.signature(self._model.get_rope_index).parameters:
            given["mm_token_type_ids"] = torch.from_numpy((ids == self._image_token).astype(np.int32))[None]
        found: IntArray = self._model.get_rope_index(**given)[0][:, 0].numpy()
        return found

    def processed(self, image: Image.Image, rules: ImageRules) -> tuple[FloatArray, tuple[int, int]]:
        """Returns the patches of an image and their (rows, columns), made by transformers' own image processor."""
        processor: Any
        try:
            from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

            processor = Qwen2VLImageProcessorPil
        except ImportError:  # before transformers 5 the processor for Pillow images had the plain name
            from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

            processor = Qwen2VLImageProcessor
        out = processor(
            min_pixels=rules.min_pixels,
            max_pixels=rules.max_pixels,
            image_mean=list(rules.mean),
            image_std=list(rules.std),
            rescale_factor=rules.rescale_factor,
            patch_size=rules.patch_size,
            temporal_patch_size=rules.temporal_patch_size,
            merge_size=rules.merge_size,
        )(images=[image], return_tensors="np")
        _, rows, columns = out["image_grid_thw"][0].tolist()
        return np.asarray(out["pixel_values"], np.float32), (rows, columns)

    def arrange(self, grids: Sequence[tuple[int, int]]) -> Arrangement:
        """Returns how vision states lie: transformers runs them in window order."""
        thw = torch.tensor([[1, rows, columns] for rows, columns in grids])
        visual = self._model.visual
        if hasattr(visual, "get_window_index"):
            units: torch.Tensor = torch.as_tensor(visual.get_window_index(thw)[0])
        else:
            from transformers.vision_utils import get_vision_window_index

            units = get_vision_window_index(thw, visual.spatial_merge_size, visual.window_size, visual.patch_size)[0]
        merged = int(visual.spatial_merge_size) ** 2
        order = (units[:, None] * merged + torch.arange(merged)).flatten()

        def tap(hidden: FloatArray) -> FloatArray:
            mean: FloatArray = hidden.reshape(-1, merged, hidden.shape[-1]).mean(1)
            return mean

        return Arrangement(order, units, tap)

    def prompt_ids(self, base: Path, question: str, grids: Sequence[tuple[int, int]], image_token: int) -> list[int]:
        """Returns the ids of a question about some images: transformers renders the template, and tokenises it."""
        content = [*({"type": "image"} for _ in grids), {"type": "text", "text": question}]
        tokenizer = self._tokenizer(base)
        text = str(
            Interrupt(_TEMPLATE_SECONDS).run(
                lambda: tokenizer.apply_chat_template(
                    [{"role": "user", "content": content}],
                    chat_template=read_template(base),
                    tokenize=False,
                    add_generation_prompt=True,
                )
            )
        )
        word = str(tokenizer.convert_ids_to_tokens(image_token))
        first, *rest = text.split(word)
        for (rows, columns), part in zip(grids, rest, strict=True):
            first += word * (rows * columns) + part
        return list(tokenizer(first, add_special_tokens=False)["input_ids"])

    def added_words(self, base: Path) -> dict[str, int]:
        """Returns the words that transformers' tokenizer of the folder takes whole, with their ids."""
        return {str(token): index for index, token in self._tokenizer(base).added_tokens_decoder.items()}

    def _tokenizer(self, base: Path) -> Any:
        if base not in self._tokenizers:
            from transformers import AutoTokenizer

            try:
                found = AutoTokenizer.from_pretrained(str(base), local_files_only=True, trust_remote_code=False)
            except Exception as error:  # foreign files in foreign code
                raise CertificateError(
                    f"transformers cannot load the tokenizer of {base} ({type(error).__name__}: {str(error)[:200]}); "
                    "copy the base's tokenizer files, or export for token ids only with --no-tokenizer"
                ) from None
            self._tokenizers[base] = found
        return self._tokenizers[base]

    @torch.no_grad()
    def see(
        self, pixels: FloatArray, grids: Sequence[tuple[int, int]], embed: Visit, block: Visit, merge: Visit
    ) -> None:
        """Runs the vision encoder on the patches of some images, each part through its visitor."""
        visual = self._model.visual
        kept = visual.patch_embed, visual.merger
        visual.patch_embed = stand_in("visual.patch_embed.", kept[0], 0, embed)
        visual.merger = stand_in("visual.merger.", kept[1], len(self._blocks) - 1, merge)
        visual.blocks = torch.nn.ModuleList(
            stand_in(f"visual.blocks.{index}.", module, index, block) for index, module in enumerate(self._blocks)
        )
        try:
            visual(torch.from_numpy(pixels), torch.tensor([[1, rows, columns] for rows, columns in grids]))
        finally:
            visual.patch_embed, visual.merger = kept

    @torch.no_grad()
    def read(
        self, rows: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, layers: range, visit: Visit
    ) -> torch.Tensor:
        """Runs rows through some decoder layers, without the final norm.

        Args:
            rows: (rows, hidden).
            positions: (3, rows).
            mask: (rows, keys) bool, which keys each row sees.
            layers: which layers.
            visit: gets every layer.

        Returns:
            (rows, hidden) after the last of them.
        """
        text = self._model.language_model
        wrapped = layers_are_wrapped()
        text.layers = torch.nn.ModuleList(
            stand_in(f"model.layers.{index}.", self._layers[index], index, visit, wrapped) for index in layers
        )
        text.norm = torch.nn.Identity()
        allowed = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        out = text(
            inputs_embeds=rows[None],
            position_ids=positions[:, None],
            attention_mask={"full_attention": allowed[None, None]},
            use_cache=False,
        )
        found: torch.Tensor = out.last_hidden_state[0]
        return found

    def final_norm(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Returns rows after the decoder's last norm."""
        out: torch.Tensor = torch.func.functional_call(self._norm, {"weight": weight}, (rows,))
        return out
