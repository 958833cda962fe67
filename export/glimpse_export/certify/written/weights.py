"""The two sets of weights a layer is run with: the checkpoint's, and what the bundle holds in their place."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch

from glimpse_export.certify.measures.record import Recorder
from glimpse_export.certify.written.stored import StoredWeights, as_tensor
from glimpse_export.weights.precision import KINDS
from glimpse_runtime.arrays import FloatArray

MEASURE = "wrong_weights"
_READERS = 2


class WeightCheck:
    """Reads original weights, and swaps them for the stored ones while judging these."""

    def __init__(self, read: Callable[[str], FloatArray], recorder: Recorder) -> None:
        """Takes a reader of the checkpoint's tensors."""
        self._read = read
        self._recorder = recorder

    def originals(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Returns the checkpoint's tensors."""
        wanted = list(names)
        with ThreadPoolExecutor(_READERS) as pool:
            return dict(zip(wanted, pool.map(lambda name: as_tensor(self._read(name)), wanted), strict=True))

    def swap(
        self,
        weights: dict[str, torch.Tensor],
        stored: StoredWeights,
        stage: str,
        layer: int | None,
        precision: Callable[[str], str],
    ) -> None:
        """Replaces every tensor by the stored one, and records how many values are wrong.

        Args:
            weights: originals by name; changed in place, so that no layer is in memory twice.
            stored: the bundle's weights.
            stage: the stage they belong to.
            layer: the layer they belong to.
            precision: what a matrix is stored in at least, by its name.
        """
        total = 0
        for name, original in list(weights.items()):
            least = KINDS[precision(name)].bits if original.ndim > 1 else 32
            weights[name], wrong = stored.compare(name, original)
            if stored.bits(name) < least:
                wrong = original.numel()
            if wrong:
                self._recorder.at_most(stage, layer, f"{MEASURE} {name}", wrong, 0)
            total += wrong
        self._recorder.at_most(stage, layer, MEASURE, total, 0)
