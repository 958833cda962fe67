"""The residual stream that weights are scaled for: how it grows over depth, and its huge channels.

Real Qwen2.5 models have two kinds, both from an early layer on. A few channels are some tens of times the others for
every token: here that layer's attention writes them, whose value bias is the same for all tokens and whose output
projection has rows along it, and a large row of its MLP writes one that differs by token. And a few tokens, such as the
first, carry channels of thousands of times the median: here a marked embedding drives single MLP neurons, and single
large weights put these into the stream. Norm weights damp all of them.
"""

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.export.checkpoints.draw import Recipe, stream_of

JITTER = 0.1
ATTENTION_SHARE = 0.15
"""Of what a layer adds: attention with random weights makes all rows alike, which a large share would let win."""
LOUDNESS = 6.0
MARK = 1.0
DRIVE = 16.0
MASSIVE_DAMPING = 0.2
VISUAL_TOKEN_RMS = 0.05
"""Size of visual tokens, about that of an embedded word."""
GELU = 0.65
"""Size of ``gelu(x)`` for x of unit size."""


@dataclass(frozen=True)
class Residual:
    """A residual stream.

    Attributes:
        width: its channels.
        depth: layers that add to it.
        start: root mean square of its ordinary channels before the first layer.
        first: the same after the first layer.
        last: the same after the last layer.
        loud: values of the channels that are large for every token.
        varied: standard deviation of the one that differs by token.
        massive: values of the channels that marked tokens carry.
        seed: chooses the channels.
        name: of the stream.
    """

    width: int
    depth: int
    start: float
    first: float
    last: float
    loud: tuple[float, ...]
    varied: float
    massive: tuple[float, ...]
    seed: int
    name: str

    @property
    def early(self) -> int:
        """The layer that writes the huge channels."""
        return min(1, self.depth - 1)

    @property
    def loud_channels(self) -> np.ndarray:
        """Channels that are large for every token, the varied one last."""
        return self._channels()[: len(self.loud) + 1]

    @property
    def massive_channels(self) -> np.ndarray:
        """Channels that are large for marked tokens."""
        return self._channels()[len(self.loud) + 1 : -1]

    @property
    def marker(self) -> int:
        """The channel in which marked tokens differ from the start."""
        return int(self._channels()[-1])

    def _channels(self) -> np.ndarray:
        count = len(self.loud) + len(self.massive) + 2
        return stream_of(self.seed, self.name, "huge channels").choice(self.width, count, replace=False)

    def loud_sizes(self) -> np.ndarray:
        """Returns the size of every loud channel."""
        return np.array([*map(abs, self.loud), self.varied])

    def rms(self, layer: int) -> float:
        """Returns the root mean square of the ordinary channels before ``layer``."""
        if layer == 0:
            return self.start
        return self.first * (self.last / self.first) ** ((layer - 1) / max(self.depth - 1, 1))

    def middle(self, layer: int) -> float:
        """Returns the same between the two halves of ``layer``."""
        return math.hypot(self.rms(layer), self.attention_part(layer))

    def attention_part(self, layer: int) -> float:
        """Returns what the attention of a layer adds, as a standard deviation."""
        return math.sqrt(ATTENTION_SHARE) * self._step(layer)

    def mlp_part(self, layer: int) -> float:
        """Returns what the MLP of a layer adds."""
        return math.sqrt(1 - ATTENTION_SHARE) * self._step(layer)

    def _step(self, layer: int) -> float:
        return math.sqrt(self.rms(layer + 1) ** 2 - self.rms(layer) ** 2)

    def norm(self, layer: int, second: bool = False, gain: float = 1.0) -> Recipe:
        """Returns the weight of an RMS norm.

        Args:
            layer: the layer before which it stands; ``depth`` for the final one.
            second: whether it stands between the layer's two halves.
            gain: root mean square of the ordinary channels it gives.
        """
        if layer < self.early or (layer == self.early and not second):
            return Recipe(JITTER * gain, gain)
        rms = self.middle(layer) if second else self.rms(layer)
        sizes, channels, massive = self.loud_sizes(), self.loud_channels, self.massive_channels
        if layer == self.early:
            sizes, channels, massive = sizes[:-1], channels[:-1], massive[:0]
        whole = math.sqrt(rms**2 + float((sizes**2).sum()) / self.width)

        def damp(values: np.ndarray, first: int) -> None:
            values[channels - first, 0] *= np.minimum(LOUDNESS * rms / sizes, 1)
            values[massive - first, 0] *= MASSIVE_DAMPING

        return Recipe(JITTER * gain * whole / rms, gain * whole / rms, damp)

    def reader(self, layer: int) -> Recipe:
        """Returns a projection that reads the stream before ``layer`` as it is, its huge channels damped."""
        rms = self.rms(layer)

        def damp(values: np.ndarray, first: int) -> None:
            values[:, self.loud_channels] *= np.minimum(3 * rms / self.loud_sizes(), 1).astype(np.float32)

        return Recipe(1 / (rms * math.sqrt(self.width)), edit=damp)

    def attention_output(self, layer: int, mixed: float, width: int, value_bias: np.ndarray | None) -> Recipe:
        """Returns the attention's output projection.

        Args:
            layer: its layer.
            mixed: root mean square of what it reads.
            width: its columns.
            value_bias: (columns,) the constant part of what it reads, None without one.
        """
        std = self.attention_part(layer) / (mixed * math.sqrt(width))
        if layer != self.early or value_bias is None:
            return Recipe(std)
        aligned = value_bias / float(value_bias @ value_bias)

        def point(values: np.ndarray, first: int) -> None:
            for channel, size in zip(self.loud_channels - first, self.loud, strict=False):
                if 0 <= channel < len(values):
                    values[channel] = size * aligned * (1 + JITTER * values[channel] / std)

        return Recipe(std, edit=point)

    def mlp_input(self, layer: int, width: int) -> Recipe:
        """Returns a projection into the MLP, gate or up; ``width`` is the number of its neurons."""
        neurons = self._neurons(width)

        def listen(values: np.ndarray, first: int) -> None:
            for neuron in neurons - first:
                if 0 <= neuron < len(values):
                    values[neuron, self.marker] = DRIVE * self.middle(layer) / MARK

        return Recipe(1 / math.sqrt(self.width), edit=listen if layer == self.early else None)

    def mlp_output(self, layer: int, width: int, active: float) -> Recipe:
        """Returns the MLP's output projection.

        Args:
            layer: its layer.
            width: number of its neurons.
            active: root mean square of their values.
        """
        part = self.mlp_part(layer)
        neurons = self._neurons(width)

        def lift(values: np.ndarray, first: int) -> None:
            varied = self.loud_channels[-1] - first
            if 0 <= varied < len(values):
                values[varied] *= self.varied / part
            for channel, neuron, size in zip(self.massive_channels - first, neurons, self.massive, strict=True):
                if 0 <= channel < len(values):
                    values[channel, neuron] = size / DRIVE**2

        return Recipe(part / (active * math.sqrt(width)), edit=lift if layer == self.early else None)

    def _neurons(self, width: int) -> np.ndarray:
        return stream_of(self.seed, self.name, "neurons").choice(width, len(self.massive), replace=False)
