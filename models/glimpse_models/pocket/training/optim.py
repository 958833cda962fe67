"""Optimisers: Muon for matrices, batched by shape and shared out among the workers; AdamW for everything else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

CLIP_NORM = 1.0
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5


def average_gradients(parameters: Sequence[nn.Parameter], world_size: int) -> None:
    """Replace every gradient by its mean over the workers; a missing one counts as zero."""
    if world_size == 1:
        return
    flat = torch.cat([_gradient(parameter).reshape(-1) for parameter in parameters])
    dist.all_reduce(flat)
    flat /= world_size
    for parameter, part in zip(
        parameters, torch.split(flat, [parameter.numel() for parameter in parameters]), strict=True
    ):
        parameter.grad = part.view_as(parameter).clone()


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


class Muon:
    """Momentum orthogonalised by a Newton-Schulz iteration, run on all matrices of one shape at once.

    Each worker updates its share of the shapes and sends the result to the others.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        rank: int = 0,
        world_size: int = 1,
        momentum: float = 0.95,
        weight_decay: float = 0.02,
    ) -> None:
        """Group the matrices by shape (a tall one counts as its transpose) and share the groups out by cost."""
        self.rank, self.world_size = rank, world_size
        self.momentum, self.weight_decay = momentum, weight_decay
        by_shape: dict[tuple[int, int], list[nn.Parameter]] = {}
        for matrix in matrices:
            short, long = sorted(matrix.shape)
            by_shape.setdefault((short, long), []).append(matrix)
        self.groups = list(by_shape.values())
        self.buffers = [torch.zeros(len(group), *shape) for shape, group in by_shape.items()]
        self.owners = _share_out([len(group) * s * s * n for (s, n), group in by_shape.items()], world_size)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update the matrices from their gradients."""
        for owner, group, buffer in zip(self.owners, self.groups, self.buffers, strict=True):
            if owner == self.rank:
                self._update(group, buffer, learning_rate)
        if self.world_size > 1:
            self._exchange()

    def state_dict(self) -> dict[str, Any]:
        """Return this worker's momentum."""
        return {"buffers": self.buffers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore this worker's momentum."""
        for buffer, saved in zip(self.buffers, state["buffers"], strict=True):
            buffer.copy_(saved)

    def _update(self, group: list[nn.Parameter], buffer: Tensor, learning_rate: float) -> None:
        gradient = torch.stack([_wide(_gradient(matrix)) for matrix in group])
        buffer.lerp_(gradient, 1 - self.momentum)
        direction = orthogonalised(torch.lerp(gradient, buffer, self.momentum))
        scale = learning_rate * 0.2 * max(buffer.shape[1:]) ** 0.5
        for matrix, update in zip(group, direction, strict=True):
            oriented = update if matrix.shape[0] <= matrix.shape[1] else update.t()
            matrix.mul_(1 - learning_rate * self.weight_decay).add_(oriented.float(), alpha=-scale)

    def _exchange(self) -> None:
        for worker in range(self.world_size):
            owned = [m for owner, group in zip(self.owners, self.groups, strict=True) if owner == worker for m in group]
            if not owned:
                continue
            flat = torch.cat([matrix.reshape(-1) for matrix in owned])
            dist.broadcast(flat, worker)
            for matrix, part in zip(owned, torch.split(flat, [matrix.numel() for matrix in owned]), strict=True):
                matrix.copy_(part.view_as(matrix))


def _wide(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()


def orthogonalised(matrices: Tensor) -> Tensor:
    """Push the singular values of wide matrices (n, short, long) towards 1; returns bfloat16."""
    linear, cubic, quintic = _NEWTON_SCHULZ
    norm = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)
    x: Tensor = (matrices / (norm + 1e-7)).to(torch.bfloat16)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = linear * x + (cubic * gram + quintic * (gram @ gram)) @ x
    return x


def _share_out(costs: Sequence[float], workers: int) -> list[int]:
    """Give each item to the least loaded worker, dearest first."""
    load, owners = [0.0] * workers, [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        owners[index] = load.index(min(load))
        load[owners[index]] += costs[index]
    return owners


class Optimiser:
    """Muon and AdamW over one set of parameters, behind one ``step``."""

    def __init__(
        self, matrices: Sequence[nn.Parameter], others: Sequence[nn.Parameter], rank: int = 0, world_size: int = 1
    ) -> None:
        """Take ``matrices`` to Muon and ``others`` to AdamW."""
        self.parameters = [*matrices, *others]
        self.world_size = world_size
        self.muon = Muon(matrices, rank, world_size)
        self.adam = torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)

    def step(self, muon_rate: float, adam_rate: float) -> None:
        """Average the gradients over the workers, clip, update, and clear them."""
        average_gradients(self.parameters, self.world_size)
        nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.muon.step(muon_rate)
        for group in self.adam.param_groups:
            group["lr"] = adam_rate
        self.adam.step()
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both optimisers on this worker."""
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both optimisers."""
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])


def schedule(step: int, steps: int, warmup: int, decay: float) -> float:
    """Return the factor of the learning rate: linear warm-up, level, then linear decay to 2 % over the last part."""
    if step < warmup:
        return (step + 1) / warmup
    start = steps * (1 - decay)
    return 1.0 if step < start else max(0.02, (steps - step) / (steps - start))
