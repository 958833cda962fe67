"""What each phase learns: which parameters move, and the loss of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from glimpse_models.pocket.model.batch import Batch
from glimpse_models.pocket.model.config import CELL, PocketConfig
from glimpse_models.pocket.model.glimpse import GlimpseForward, GlimpseModules
from glimpse_models.pocket.model.layout import Layout, make_layout, row_positions, text_rotary
from glimpse_models.pocket.model.lora import Lora
from glimpse_models.pocket.model.model import Pocket, linear, make_model, patchify
from glimpse_models.pocket.scenes.questions import TYPES
from glimpse_models.pocket.training.data import DENSE_CLASSES, QUESTIONS, SEGMENT, RowEncoder
from glimpse_models.pocket.training.losses import answer_loss, dense_loss, mask_loss

TRAINING_TYPE = torch.bfloat16


class Trainee:
    """All modules that are trained.

    They are the base model, the patch classifier (training only), the glimpse modules, and pocket-plus' updates of the
    base with glimpse modules of its own.
    """

    def __init__(self, config: PocketConfig, seed: int, compiled: bool) -> None:
        """Initialise everything from ``seed``."""
        self.config = config
        self.model = make_model(config, seed)
        self.dense_head = nn.Linear(config.hidden_size, 4 * sum(DENSE_CLASSES))
        self.glimpse = GlimpseModules(config, seed + 1)
        self.pocket = Pocket(config, self.model, compiled)
        self.glimpse_forward = GlimpseForward(self.pocket, self.glimpse, compiled)
        self.lora = Lora(self.pocket.decoder_layers, seed + 2)
        self.plus = GlimpseModules(config, seed + 1)
        self.plus_forward = GlimpseForward(self.pocket, self.plus, compiled)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return the weights of all modules."""
        return {name: module.state_dict() for name, module in self._modules().items()}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Restore the weights of all modules."""
        modules = self._modules()
        for name, weights in state.items():
            modules[name].load_state_dict(weights)

    def _modules(self) -> dict[str, nn.Module]:
        return {
            "model": self.model,
            "dense_head": self.dense_head,
            "glimpse": self.glimpse,
            "lora": self.lora,
            "plus": self.plus,
        }


@dataclass
class Scores:
    """Sums over steps for the progress line; ``text`` gives their means."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, name: str, value: float, count: float = 1.0) -> None:
        """Add ``count`` observations that sum to ``value``."""
        self.sums[name] += value
        self.counts[name] += count

    def text(self) -> str:
        """Return ``name=mean`` for every name."""
        return " ".join(f"{name}={self.sums[name] / max(1e-9, self.counts[name]):.3f}" for name in self.sums)


class Task(ABC):
    """One objective: computes the loss of a batch."""

    def __init__(self, trainee: Trainee, encoder: RowEncoder) -> None:
        """Prepare for batches of any size."""
        self.trainee = trainee
        self.prefix = torch.tensor(encoder.prefix)

    def layout(self, batch: Batch) -> Layout:
        """Return the tables for the batch's image size."""
        rows, columns = batch.pixels.shape[1] // CELL, batch.pixels.shape[2] // CELL
        return make_layout(self.trainee.config, rows, columns, len(self.prefix), QUESTIONS, SEGMENT)

    def begin(self) -> None:  # noqa: B027  (most tasks have nothing to prepare)
        """Prepare the modules before the first step of a phase."""

    def modules(self) -> list[nn.Module]:
        """Return the modules that learn."""
        return [self.trainee.model, self.trainee.dense_head]

    def parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return the matrices for Muon, and all other parameters."""
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for module in self.modules():
            for name, parameter in module.named_parameters():
                (matrices if parameter.dim() == 2 and self.is_matrix(name) else others).append(parameter)
        return matrices, others

    def is_matrix(self, name: str) -> bool:
        """Say whether a two-dimensional parameter belongs to Muon."""
        return any(part in name for part in ("blocks", "layers", "merger.mlp"))

    @abstractmethod
    def loss(self, batch: Batch, shift: int, scores: Scores) -> Tensor:
        """Return the loss of a batch and note its scores; ``shift`` moves the text away from the image."""


class VisionTask(Task):
    """Learn what every patch shows."""

    def modules(self) -> list[nn.Module]:
        """Return the modules that learn."""
        return [self.trainee.model.model.visual, self.trainee.dense_head]

    def loss(self, batch: Batch, shift: int, scores: Scores) -> Tensor:
        """Return the patch classifier's loss."""
        visual, _ = self.trainee.pocket.encode(patchify(batch.pixels, TRAINING_TYPE), self.layout(batch))
        return self.dense(visual, batch, scores)

    def dense(self, visual: Tensor, batch: Batch, scores: Scores) -> Tensor:
        """Return the patch classifier's loss on given visual tokens."""
        head = self.trainee.dense_head
        loss, characters = dense_loss(linear(visual, head.weight, head.bias), batch.dense)
        scores.add("dense", loss.item())
        scores.add("glyph", characters.item())
        return loss


class AnswerTask(VisionTask):
    """Learn to answer, and go on learning what every patch shows."""

    def modules(self) -> list[nn.Module]:
        """Return the modules that learn."""
        return [self.trainee.model, self.trainee.dense_head]

    def loss(self, batch: Batch, shift: int, scores: Scores) -> Tensor:
        """Return the sum of both losses."""
        pocket, layout = self.trainee.pocket, self.layout(batch)
        visual, _ = pocket.encode(patchify(batch.pixels, TRAINING_TYPE), layout)
        cos, sin = text_rotary(self.trainee.config, row_positions(layout, shift))
        rows = pocket.row(self.prefix, visual, pocket.embed(batch.ids, TRAINING_TYPE))
        hidden = pocket.decode(rows, cos, sin, layout.mask)[:, layout.start :]
        loss, right = answer_loss(pocket.logits(hidden), batch.labels)
        scores.add("answers", loss.item())
        for index, name in enumerate(TYPES):
            asked = batch.types == index
            scores.add(name, right[asked].sum().item(), asked.sum().item())
        scores.add("all", right.sum().item(), right.numel())
        return loss + self.dense(visual, batch, scores)


class GlimpseTask(Task):
    """Learn to mark the visual tokens that the answer needs; the base model is frozen."""

    def modules(self) -> list[nn.Module]:
        """Return the modules that learn."""
        return [self.trainee.glimpse]

    def is_matrix(self, name: str) -> bool:
        """Say whether a two-dimensional parameter belongs to Muon."""
        return "out_projs" not in name

    def loss(self, batch: Batch, shift: int, scores: Scores) -> Tensor:
        """Return the loss of the keep mask."""
        self.trainee.model.requires_grad_(False)
        layout = self.layout(batch)
        rotary = text_rotary(self.trainee.config, row_positions(layout, shift))
        patches = patchify(batch.pixels, TRAINING_TYPE)
        logits = self.trainee.glimpse_forward(layout, rotary, self.prefix, patches, batch)
        return self.mask(logits, batch.relevant.reshape(logits.shape), batch.wanted.reshape(logits.shape), scores)

    def mask(self, logits: Tensor, relevant: Tensor, wanted: Tensor, scores: Scores, name: str = "") -> Tensor:
        """Return ``mask_loss``, whose tensors are (questions, tokens); ``name`` leads the names of the scores."""
        loss = mask_loss(logits, relevant, wanted)
        kept, hits = logits > 0, (logits > 0) & relevant
        scores.add(f"{name}mask", loss.item())
        scores.add(f"{name}precision", hits.sum().item(), kept.sum().item())
        scores.add(f"{name}recall", hits.sum().item(), relevant.sum().item())
        scores.add(f"{name}kept", kept.sum().item(), kept.numel())
        return loss
