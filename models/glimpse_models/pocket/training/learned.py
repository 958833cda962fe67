"""The learned pruning methods as modules: trained here, run in numpy by ``glimpse_runtime.pruners``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from glimpse_runtime.pruners.methods import covipal, sdtp


class Learned(nn.Module):
    """A small network whose parameters are named and shaped as the runtime's weight file of its method has them.

    Visual inputs are divided by ``scale``, so that all of their dimensions count alike at the start; the matrices in
    the weight file take them as they are.
    """

    scale: Tensor
    reads_visual: ClassVar[tuple[str, ...]]
    """Matrices whose first rows multiply the visual inputs."""

    def __init__(self, shapes: Mapping[str, tuple[str, ...]], seed: int, **lengths: int) -> None:
        """Draw matrices by fan-in and set biases to zero.

        Args:
            shapes: The method's ``WEIGHTS``.
            seed: The same seed gives the same start.
            lengths: Length of every dimension that the shapes name.
        """
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        for name, dims in shapes.items():
            shape = [sum(lengths[part] for part in dim.split("+")) for dim in dims]
            drawn = torch.zeros(shape) if name.startswith("b") else torch.randn(shape, generator=random)
            self.register_parameter(name, nn.Parameter(drawn / shape[0] ** 0.5 if shape else drawn))
        self.register_buffer("scale", torch.ones(lengths["hidden"]))

    def fit_scale(self, inputs: Tensor) -> None:
        """Set the scale to the root mean square of (..., hidden) inputs, dimension by dimension."""
        self.scale.copy_(inputs.flatten(0, -2).square().mean(0).sqrt().clamp(min=1e-3))

    def arrays(self) -> dict[str, npt.NDArray[np.float16]]:
        """Return what the weight file holds."""
        arrays = {name: parameter.detach().clone() for name, parameter in self.named_parameters()}
        for name in self.reads_visual:
            arrays[name][: len(self.scale)] /= self.scale[:, None]
        return {name: array.half().numpy() for name, array in arrays.items()}


class Covipal(Learned):
    """Scores visual tokens for questions before layer 0."""

    reads_visual = ("q", "w1")
    q: Tensor
    k: Tensor
    v: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor

    def __init__(self, hidden: int, size: int = 48, inner: int = 160, seed: int = 0) -> None:
        """Size the network by the model's width, its head and its perceptron."""
        super().__init__(covipal.WEIGHTS, seed, hidden=hidden, size=size, inner=inner)

    def forward(self, visual: Tensor, text: Tensor, asked: Tensor) -> Tensor:
        """Return one logit per question and visual token, (batch, questions, tokens).

        Args:
            visual: (batch, tokens, hidden) as they enter layer 0.
            text: (batch, questions, length, hidden) embeddings.
            asked: (batch, questions, length) which of them are the prompt behind the image, not padding or answer.
        """
        visual = visual / self.scale
        query = (visual @ self.q)[:, None].expand(-1, text.shape[1], -1, -1)
        seen = functional.scaled_dot_product_attention(query, text @ self.k, text @ self.v, asked[:, :, None])
        own, mixed = self.w1[: visual.shape[-1]], self.w1[visual.shape[-1] :]
        inner = functional.gelu((visual @ own)[:, None] + seen @ mixed + self.b1, approximate="tanh")
        logits: Tensor = inner @ self.w2 + self.b2
        return logits


class Sdtp(Learned):
    """Scores the hidden states of visual tokens behind the split."""

    reads_visual = ("w1",)
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor

    def __init__(self, hidden: int, inner: int = 96, seed: int = 0) -> None:
        """Size the perceptron by the model's width and its own."""
        super().__init__(sdtp.WEIGHTS, seed, hidden=hidden, inner=inner)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the predicted saliency of hidden states, (batch, tokens, hidden) -> (batch, tokens)."""
        inner = functional.gelu(hidden / self.scale @ self.w1 + self.b1, approximate="tanh")
        scores: Tensor = inner @ self.w2 + self.b2
        return scores


def imitation_loss(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Return the cross entropy between what the teacher wants and the logits, each as shares of a question's tokens.

    Only their order is used, so shares suit better than a probability for each: a few tokens count, and thousands of
    others do not drown them. A question for which the teacher finds nothing counts less.

    Args:
        logits: (batch, questions, tokens).
        probabilities: The same shape, the teacher's.
    """
    total = probabilities.sum(-1)
    wanted = probabilities / total.clamp(min=1e-3)[..., None]
    loss = -(wanted * logits.log_softmax(-1)).sum(-1)
    return (loss * total.clamp(max=1)).mean()


def ranking_loss(scores: Tensor, saliency: Tensor) -> Tensor:
    """Return how far (batch, tokens) scores are from the order of the saliency, the mean over pairs of tokens.

    A pair costs log(1 + exp(-d)), where d is by how much the score of the more salient token is the higher one.
    """
    difference = scores[:, :, None] - scores[:, None]
    order = torch.sign(saliency[:, :, None] - saliency[:, None])
    return functional.softplus(-difference * order)[order != 0].mean()
