"""The manifest of a bundle as frozen dataclasses, and its strict JSON form.

Export writes these classes and the runtime reads them, so the format is described in one place. Reading is
strict: a missing key, an unknown key or a value of another type is a ``BundleFormatError`` that names the key.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from glimpse_runtime.bundle.format_3 import upgrade_3
from glimpse_runtime.bundle.records import plain, read_object, read_versioned, to_json
from glimpse_runtime.errors import BundleDamagedError, BundleFormatError

FORMAT_VERSION = 4
MANIFEST_NAME = "manifest.json"
# Of a rotary embedding that makes sense.
LARGEST_ROPE_THETA = 1e12
_HASH = "sha256"
_WITHOUT_HASH = (3,)


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One input or output of a stage; a dimension is a fixed length or the name of a profile dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """One graph of the bundle."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclasses.dataclass(frozen=True)
class FileSpec:
    """Size and content hash of one file of the bundle."""

    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Profile:
    """The range of one named dimension: smallest, most frequent and largest length."""

    min: int
    opt: int
    max: int


@dataclasses.dataclass(frozen=True)
class SourceSpec:
    """Where the weights came from.

    ``base_sha256`` is the hash of the weight file, or for several files that of their list as ``sha256sum`` prints it,
    sorted by name; ``adapter_sha256`` is the hash of the adapter's file. ``lora`` is the LoRA adapter that was merged
    into the base, None for none, and ``lora_sha256`` the hash of the list of its files. ``tower`` is the vision tower
    of a base that does not hold it, and ``tower_sha256`` to it what ``base_sha256`` is to the base.
    """

    base: str
    base_sha256: str
    adapter: str | None
    adapter_sha256: str | None
    lora: str | None = None
    lora_sha256: str | None = None
    tower: str | None = None
    tower_sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Name, origin and licence of the model."""

    name: str
    architecture: str
    licence: str
    source: SourceSpec


@dataclasses.dataclass(frozen=True)
class TextSpec:
    """The decoder: ``lower_layers`` of its ``layers`` run on all tokens, the rest on the kept ones.

    ``rope_sections`` says how many rotary frequencies follow each axis of a position; one is a 1-D rope.
    """

    layers: int
    lower_layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    rope_theta: float
    rope_sections: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class VisionSpec:
    """The vision encoder: ``taps`` are the blocks whose outputs the scorer reads, in its order.

    A visual token is made of ``merge_size`` x ``merge_size`` patches of ``patch_size`` x ``patch_size`` pixels.
    """

    hidden_size: int
    patch_size: int
    merge_size: int
    taps: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class GlimpseSpec:
    """The glimpse token (``length`` rows appended to the prompt) and the layers whose attention it reads."""

    length: int
    reduce_layer: int
    selected_layers: tuple[int, ...]
    attention: str


@dataclasses.dataclass(frozen=True)
class ScorerSpec:
    """The scorer (visual importance predictor): attention map in, one logit per visual token out."""

    kind: str
    scope: str
    head_dim: int
    rope_theta: float
    output_rows: int


@dataclasses.dataclass(frozen=True)
class PruningDefaults:
    """What is kept when a request does not say otherwise (paper, section 3; facts of the adapter config)."""

    threshold: float
    max_keep_ratio: float | None
    min_keep: int | None
    anchors: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class GenerationDefaults:
    """What the checkpoint's generation_config.json changes about greedy decoding."""

    repetition_penalty: float


@dataclasses.dataclass(frozen=True)
class TokenIds:
    """Ids with a meaning of their own; ``eos`` ids end an answer."""

    image: int
    video: int | None
    eos: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class PromptSpec:
    """The chat template cut at its variable parts; pieces are joined in the order of their use.

    ``answer_open`` stands between ``assistant_open`` and an earlier answer.
    """

    default_system: str | None
    system_open: str
    system_close: str
    user_open: str
    user_close: str
    assistant_open: str
    assistant_close: str
    image: str
    answer_open: str = ""


@dataclasses.dataclass(frozen=True)
class EmbeddingSpec:
    """The token embedding table: raw rows, memory-mapped by the runtime."""

    file: str
    dtype: str
    rows: int
    columns: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Everything the runtime knows about a bundle.

    ``family`` holds what only models of one architecture have; that family reads it, see
    ``glimpse_runtime.inputs.family``. ``graphs`` are the stages' graphs by dialect: each dialect is the whole model, on
    the same weights, for one family of inference engines. ``stamps`` are for export alone: for each step of its work a
    hash over all that its files depend on. ``sha256`` is the hash of all other content, checked when a bundle is
    opened; manifests before format version 4 have none.
    """

    format_version: int
    exporter: str
    model: ModelSpec
    text: TextSpec
    vision: VisionSpec
    glimpse: GlimpseSpec
    scorer: ScorerSpec
    pruning: PruningDefaults
    generation: GenerationDefaults
    tokens: TokenIds
    prompt: PromptSpec | None
    embedding: EmbeddingSpec
    precision: Mapping[str, str]
    profiles: Mapping[str, Profile]
    family: Mapping[str, Any]
    graphs: Mapping[str, Mapping[str, StageSpec]]
    files: Mapping[str, FileSpec]
    stamps: Mapping[str, str]
    sha256: str = ""

    @property
    def dialects(self) -> tuple[str, ...]:
        """The dialects there are graphs in."""
        return tuple(self.graphs)

    def stages_of(self, dialect: str) -> Mapping[str, StageSpec]:
        """Returns the stages of one dialect."""
        return self.graphs[dialect]

    def choose_dialect(self, wanted: Sequence[str]) -> str:
        """Returns the first of some dialects that this bundle has.

        Raises:
            BundleFormatError: it has none of them.
        """
        for name in wanted:
            if name in self.graphs:
                return name
        raise BundleFormatError(
            f"the bundle has graphs in the dialect {', '.join(self.graphs)}, this backend runs {', '.join(wanted)}; "
            f"export the model again with --dialect {wanted[0]}"
        )

    @property
    def content_sha256(self) -> str:
        """The hash of all that decides about answers beside the files: what a certificate speaks of."""
        return hash_of({key: value for key, value in plain(self).items() if key not in ("files", "stamps", _HASH)})

    def to_json(self) -> str:
        """Returns the manifest as readable JSON with a final newline; it states the hash of all its other content."""
        data = {key: value for key, value in plain(self).items() if key != _HASH}
        return to_json({**data, _HASH: hash_of(data)})

    @classmethod
    def from_json(cls, text: str, where: str) -> "Manifest":
        """Reads a manifest.

        Args:
            text: the JSON text.
            where: what to call the file in an error message.

        Raises:
            BundleFormatError: not JSON, an unknown format version, or keys and values that do not fit.
        """
        return read_versioned(cls, text, where, "format_version", FORMAT_VERSION, {3: upgrade_3})


def require_unaltered(text: str, where: str) -> None:
    """Compares a manifest's content with the hash that it states.

    Args:
        text: its JSON text.
        where: what to call the file in errors.

    Raises:
        BundleDamagedError: it was altered after it was written.
    """
    data = read_object(text, where)
    if data.get("format_version") in _WITHOUT_HASH:
        return
    stated = data.pop(_HASH, None)
    if stated != hash_of(data):
        raise BundleDamagedError(
            f"{where} was altered: its content does not have the hash that it states; copy the bundle again or export "
            "the model again"
        )


def hash_of(data: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of plain JSON values, however they are laid out as text."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
