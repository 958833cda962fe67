"""What the learned pruning methods are taught: the frozen model's own view of a batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from glimpse_models.pocket.model.batch import Batch
from glimpse_models.pocket.model.config import CELL, PocketConfig
from glimpse_models.pocket.model.glimpse import GlimpseForward, GlimpseModules
from glimpse_models.pocket.model.layout import Layout, make_layout, row_positions, text_rotary
from glimpse_models.pocket.model.model import Pocket, patchify, rms_norm
from glimpse_models.pocket.training.data import QUESTIONS, SEGMENT, RowEncoder
from glimpse_models.pocket.training.losses import answer_loss


class Lesson(NamedTuple):
    """Inputs and targets of the learned methods, float32.

    Attributes:
        visual: (batch, tokens, hidden) as they enter layer 0.
        text: (batch, questions, length, hidden) embeddings of what follows the image.
        asked: (batch, questions, length) which of them are the prompt, not answer or padding.
        probabilities: (batch, questions, tokens) of the glimpse's scorer.
        hidden: (batch, tokens, hidden) visual tokens behind the split.
        saliency: (batch, tokens) gradient times input of the answers' loss there.
    """

    visual: Tensor
    text: Tensor
    asked: Tensor
    probabilities: Tensor
    hidden: Tensor
    saliency: Tensor


class Teacher:
    """A frozen model with its glimpse modules."""

    def __init__(
        self,
        config: PocketConfig,
        model: Qwen2_5_VLForConditionalGeneration,
        modules: GlimpseModules,
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> None:
        """Wrap trained modules; they are frozen."""
        self.config, self.dtype = config, dtype
        model.requires_grad_(False)
        modules.requires_grad_(False)
        self.pocket = Pocket(config, model, compiled)
        self.glimpse = GlimpseForward(self.pocket, modules, compiled)
        self.prefix = torch.tensor(RowEncoder().prefix)

    def __call__(self, batch: Batch) -> Lesson:
        """Run the model on a batch."""
        layout = self._layout(batch)
        pocket = self.pocket
        with torch.no_grad():
            visual, taps = pocket.encode(patchify(batch.pixels, self.dtype), layout, self.config.vision_taps)
            text = pocket.embed(batch.ids, self.dtype)
            rotary = text_rotary(self.config, row_positions(layout))
            logits = self.glimpse.logits(layout, rotary, self.prefix, visual, taps, batch)
        hidden, saliency = self._saliency(layout, pocket.row(self.prefix, visual, text), batch.labels)
        return Lesson(
            visual=visual.float(),
            text=text.float(),
            asked=torch.arange(text.shape[2]) <= batch.last[..., None],
            probabilities=logits.sigmoid().view(*batch.last.shape, -1),
            hidden=hidden.float(),
            saliency=saliency.float(),
        )

    def _saliency(self, layout: Layout, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the visual tokens' states behind the split, and |gradient * state| of the answers' loss there."""
        pocket, split = self.pocket, self.config.reduce_layer + 1
        cos, sin = (table.to(rows.dtype) for table in text_rotary(self.config, row_positions(layout)))
        hidden = rows
        with torch.no_grad():
            for weights in pocket.decoder_layers[:split]:
                hidden = pocket.decoder_layer(hidden, cos, sin, layout.mask, weights, self.config.heads)
        image = hidden[:, layout.prefix : layout.start].clone().requires_grad_()
        above = torch.cat([hidden[:, : layout.prefix], image, hidden[:, layout.start :]], 1)
        for weights in pocket.decoder_layers[split:]:
            above = pocket.decoder_layer(above, cos, sin, layout.mask, weights, self.config.heads)
        above = rms_norm(above[:, layout.start :], pocket.model.model.language_model.norm.weight)
        loss, _ = answer_loss(pocket.logits(above), labels)
        (gradient,) = torch.autograd.grad(loss, image)
        image = image.detach()
        return image, (gradient.float() * image.float()).sum(-1).abs()

    def _layout(self, batch: Batch) -> Layout:
        rows, columns = batch.pixels.shape[1] // CELL, batch.pixels.shape[2] // CELL
        return make_layout(self.config, rows, columns, len(self.prefix), QUESTIONS, SEGMENT)
