"""Pocket-plus: the base is fine-tuned under pruning, in the manner of GlimpsePrune+.

The paper rewards answers given under pruning (arXiv 2508.01548, section on GlimpsePrune+); here the answers are known,
so a supervised loss on them takes the place of the reward. The decoder learns through low-rank updates, the glimpse and
its scorer go on learning, the vision encoder stays.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glimpse_models.pocket.checkpoint import DEFAULT_THRESHOLD
from glimpse_models.pocket.model.batch import Batch
from glimpse_models.pocket.model.config import PAPER_CAP
from glimpse_models.pocket.model.layout import row_positions, text_rotary
from glimpse_models.pocket.model.model import patchify
from glimpse_models.pocket.model.pruned import choose, decode_pruned
from glimpse_models.pocket.scenes.questions import TYPES
from glimpse_models.pocket.training.losses import answer_loss, mask_loss
from glimpse_models.pocket.training.objectives import TRAINING_TYPE, Scores, Task


class PlusTask(Task):
    """Learn to answer from what the glimpse keeps, and to keep what the answer needs."""

    def begin(self) -> None:
        """Start from the glimpse modules of pocket."""
        self.trainee.plus.load_state_dict(self.trainee.glimpse.state_dict())

    def modules(self) -> list[nn.Module]:
        """Return the modules that learn."""
        return [self.trainee.plus, self.trainee.lora]

    def is_matrix(self, name: str) -> bool:
        """Say whether a two-dimensional parameter belongs to Muon."""
        return "attn_fuser.layers" in name or "in_proj" in name or "le_proj" in name

    def loss(self, batch: Batch, shift: int, scores: Scores) -> Tensor:
        """Return the sum of the answers' loss under pruning and the keep mask's."""
        trainee, layout = self.trainee, self.layout(batch)
        trainee.model.requires_grad_(False)
        pocket = trainee.pocket
        layers = trainee.lora.merged(pocket.decoder_layers)
        rotary = text_rotary(trainee.config, row_positions(layout, shift))
        with torch.no_grad():
            patches = patchify(batch.pixels, TRAINING_TYPE)
            visual, taps = pocket.encode(patches, layout, trainee.config.vision_taps)
        logits = trainee.plus_forward.logits(layout, rotary, self.prefix, visual, taps, batch, layers)
        relevant = batch.relevant.reshape(logits.shape)
        mask = mask_loss(logits, relevant, batch.wanted.reshape(logits.shape))
        kept = choose(logits.detach().view(*batch.types.shape, -1), PAPER_CAP, DEFAULT_THRESHOLD)
        rows = pocket.row(self.prefix, visual, pocket.embed(batch.ids, TRAINING_TYPE))
        hidden = decode_pruned(pocket, layers, layout, rotary, rows, batch.last, kept)
        answers, right = answer_loss(pocket.logits(hidden), batch.labels)
        scores.add("answers", answers.item())
        scores.add("mask", mask.item())
        for index, name in enumerate(TYPES):
            asked = batch.types == index
            scores.add(name, right[asked].sum().item(), asked.sum().item())
        scores.add("all", right.sum().item(), right.numel())
        scores.add("kept", kept.valid.sum().item(), relevant.numel())
        return answers + mask
