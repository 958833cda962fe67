"""Answers questions under pruning in plain PyTorch, to scan layers and to check the deployed pipeline against.

The answers are teacher-forced: each token is predicted after the right ones. All of them are right exactly when greedy
decoding gives the right answer, so exact match needs one forward pass. Pruning is written as attention masks instead of
shorter sequences: up to the pruning layer the prompt sees the whole image, above it, and in all of decoding, only what
was kept.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from glimpse_models.pocket.model.batch import Batch
from glimpse_models.pocket.model.config import CELL, PocketConfig
from glimpse_models.pocket.model.glimpse import GlimpseForward, GlimpseModules
from glimpse_models.pocket.model.layout import make_layout, row_positions, text_rotary
from glimpse_models.pocket.model.model import Pocket, patchify, rms_norm
from glimpse_models.pocket.training.data import SEGMENT, RowEncoder
from glimpse_models.pocket.training.losses import answer_loss


class Reference:
    """A model with its glimpse modules, in float32, for batches of one image."""

    def __init__(
        self, config: PocketConfig, model: Qwen2_5_VLForConditionalGeneration, modules: GlimpseModules
    ) -> None:
        """Wrap trained modules."""
        self.config = config
        self.pocket = Pocket(config, model)
        self.glimpse = GlimpseForward(self.pocket, modules)
        self.prefix = torch.tensor(RowEncoder().prefix)

    @torch.no_grad()
    def scores(self, batch: Batch) -> Tensor:
        """Return the probability that a visual token matters, (questions, tokens)."""
        rows, columns = self._grid(batch)
        layout = make_layout(self.config, rows, columns, len(self.prefix), batch.ids.shape[1], SEGMENT)
        rotary = text_rotary(self.config, row_positions(layout))
        patches = patchify(batch.pixels, torch.float32)
        return self.glimpse(layout, rotary, self.prefix, patches, batch).sigmoid()

    @torch.no_grad()
    def right(self, batch: Batch, keep: Tensor | None = None, layer: int | None = None) -> Tensor:
        """Say which questions are answered right.

        Args:
            batch: One image with its questions.
            keep: Visual tokens to keep for each question, (questions, tokens); None for no pruning.
            layer: The pruning layer (default the model's own).

        Returns:
            (questions,) boolean.
        """
        rows, columns = self._grid(batch)
        layout = make_layout(self.config, rows, columns, len(self.prefix), 1, SEGMENT)
        visual, _ = self.pocket.encode(patchify(batch.pixels, torch.float32), layout)
        questions = batch.ids.shape[1]
        segments = self.pocket.embed(batch.ids[0], torch.float32)
        hidden = self.pocket.row(self.prefix, visual.expand(questions, -1, -1), segments)
        cos, sin = text_rotary(self.config, row_positions(layout))
        lower, upper = self._masks(layout.mask, layout.prefix, layout.start, batch.last[0], keep)
        layer = self.config.reduce_layer if layer is None else layer
        for index, weights in enumerate(self.pocket.decoder_layers):
            mask = lower if index <= layer else upper
            hidden = self.pocket.decoder_layer(hidden, cos, sin, mask, weights, self.config.heads)
        hidden = rms_norm(hidden[:, layout.start :], self.pocket.model.model.language_model.norm.weight)
        _, right = answer_loss(self.pocket.logits(hidden), batch.labels[0])
        return right

    def _masks(
        self, causal: Tensor, prefix: int, start: int, last: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the attention masks up to the pruning layer and above it, (questions, 1, length, length)."""
        if keep is None:
            return causal, causal
        visible = torch.ones(len(keep), causal.shape[0], dtype=torch.bool)
        visible[:, prefix:start] = keep
        upper = causal & visible[:, None, None, :]
        in_prompt = torch.arange(causal.shape[0]) <= start + last[:, None]
        lower = torch.where(in_prompt[:, None, :, None], causal, upper)
        return lower, upper | torch.eye(causal.shape[0], dtype=torch.bool)

    def _grid(self, batch: Batch) -> tuple[int, int]:
        return batch.pixels.shape[1] // CELL, batch.pixels.shape[2] // CELL
