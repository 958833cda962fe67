"""What is known about a model before any of its files is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glimpse_models.dims import Dims


@dataclass(frozen=True)
class Recommendation:
    """A recommendation, in the names of ``glimpse-export --precision``.

    Attributes:
        text: precision of the decoder and of all that ``vision`` does not cover.
        vision: precision of the vision encoder where it differs.
    """

    text: str
    vision: str | None = None

    def __str__(self) -> str:
        """Returns it in words."""
        return f"{self.text} (vision {self.vision})" if self.vision else self.text


@dataclass(frozen=True)
class Published:
    """What the files of a model say that a plan needs.

    Attributes:
        configs: its configuration files: ``base``, ``adapter``, ``generation``, ``images`` and, of a vision tower that
            lies apart, ``tower``.
        stored: the dtype of its weights.
    """

    configs: Mapping[str, Mapping[str, Any]]
    stored: str


@dataclass(frozen=True)
class ModelFacts:
    """One named model.

    Attributes:
        name: the name used on the command line.
        base: hub id of the base checkpoint; a leading ``package:`` names a folder inside ``glimpse_models``.
        adapter: the same for the GlimpsePrune adapter.
        licence: SPDX id or name of the weights' licence.
        terms: what the licence asks for, in one sentence.
        dims: the sizes that its two ``config.json`` state.
        precision: the recommended precision by target, in ``TARGETS``.
        adapter_alternatives: other hub ids that the adapter is said to have, tried in order.
        revision: pinned revision of the base's hub repository, None for its main branch.
        adapter_revision: the same for the adapter.
        lora: the same as ``base`` for a LoRA adapter that is merged into the base, None for none.
        published: what its files say, None where they are always at hand.
        lora_revision: pinned revision of its hub repository.
    """

    name: str
    base: str
    adapter: str
    licence: str
    terms: str
    dims: Dims
    precision: Mapping[str, Recommendation]
    adapter_alternatives: tuple[str, ...] = ()
    revision: str | None = None
    adapter_revision: str | None = None
    lora: str | None = None
    lora_revision: str | None = None
    published: Published | None = None


TARGETS = ("cpu", "ort-cuda", "tensorrt", "orin-8gb")
"""Where a bundle runs: ONNX Runtime on a CPU or on CUDA, TensorRT, and TensorRT in the 8 GB of a Jetson Orin."""
