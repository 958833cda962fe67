"""The manifest of a bundle as frozen dataclasses, and its strict JSON form.

Export writes these classes and the runtime reads them, so the format is described in one place. Reading is
strict: a missing key, an unknown key or a value of another type is a ``BundleFormatError`` that names the key.
"""

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from glimpse_runtime.errors import BundleFormatError

FORMAT_VERSION = 2
MANIFEST_NAME = "manifest.json"

Record = TypeVar("Record")


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
    sorted by name; ``adapter_sha256`` is the hash of the adapter's file.
    """

    base: str
    base_sha256: str
    adapter: str | None
    adapter_sha256: str | None


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Name, origin and licence of the model."""

    name: str
    architecture: str
    licence: str
    source: SourceSpec


@dataclasses.dataclass(frozen=True)
class TextSpec:
    """The decoder: ``lower_layers`` of its ``layers`` run on all tokens, the rest on the kept ones."""

    layers: int
    lower_layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    rope_theta: float
    mrope_section: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class VisionSpec:
    """The vision encoder: ``taps`` are the blocks whose outputs the scorer reads, in its order."""

    hidden_size: int
    head_dim: int
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    window_size: int
    rope_theta: float
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
    """The chat template cut at its variable parts; pieces are joined in the order of their use."""

    default_system: str | None
    system_open: str
    system_close: str
    user_open: str
    user_close: str
    assistant_open: str
    assistant_close: str
    image: str


@dataclasses.dataclass(frozen=True)
class ImageRules:
    """How an image becomes patches; the same meaning as in Qwen2VLImageProcessor's configuration."""

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale_factor: float


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

    ``stamps`` are for export alone: for each step of its work a hash over all that its files depend on.
    """

    format_version: int
    exporter: str
    dialect: str
    model: ModelSpec
    text: TextSpec
    vision: VisionSpec
    glimpse: GlimpseSpec
    scorer: ScorerSpec
    pruning: PruningDefaults
    generation: GenerationDefaults
    tokens: TokenIds
    prompt: PromptSpec | None
    images: ImageRules
    embedding: EmbeddingSpec
    precision: Mapping[str, str]
    profiles: Mapping[str, Profile]
    stages: Mapping[str, StageSpec]
    files: Mapping[str, FileSpec]
    stamps: Mapping[str, str]

    def to_json(self) -> str:
        """Returns the manifest as readable JSON with a final newline."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "Manifest":
        """Reads a manifest.

        Args:
            text: the JSON text.
            where: what to call the file in an error message.

        Raises:
            BundleFormatError: not JSON, an unknown format version, or keys and values that do not fit.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleFormatError(f"{where} is not valid JSON ({error}); export the model again") from None
        if not isinstance(data, dict):
            raise BundleFormatError(f"{where} is not a JSON object; export the model again")
        version = data.get("format_version")
        if version != FORMAT_VERSION:
            raise BundleFormatError(
                f"{where} has bundle format version {version!r}, this runtime reads version {FORMAT_VERSION}; "
                "export the model again with this version of glimpse-edge, or install the version that wrote it"
            )
        return _record(cls, data, where, "")


def _record(cls: type[Record], data: Any, where: str, path: str) -> Record:
    if not isinstance(data, dict):
        raise BundleFormatError(f"{where}: {path or 'top level'} must be an object, found {_kind(data)}")
    hints = typing.get_type_hints(cls)
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in sorted(set(data) - names):
        raise BundleFormatError(f"{where}: unknown key {_join(path, key)}; it was written by another version")
    for key in sorted(names - set(data)):
        raise BundleFormatError(f"{where}: key {_join(path, key)} is missing; export the model again")
    return cls(**{key: _value(hints[key], data[key], where, _join(path, key)) for key in names})


def _value(hint: Any, data: Any, where: str, path: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _record(typing.cast(type, hint), data, where, path)
    if origin in (types.UnionType, typing.Union):
        if data is None and type(None) in arguments:
            return None
        choices = [choice for choice in arguments if choice is not type(None)]
        if len(choices) > 1:
            choices = [choice for choice in choices if type(data) is choice] or choices[:1]
        return _value(choices[0], data, where, path)
    if origin is tuple and isinstance(data, list):
        return tuple(_value(arguments[0], item, where, f"{path}[{i}]") for i, item in enumerate(data))
    if origin is not None and issubclass(origin, Mapping) and isinstance(data, dict):
        return {key: _value(arguments[1], item, where, _join(path, key)) for key, item in data.items()}
    if hint is float and type(data) in (int, float) and abs(data) < sys.float_info.max:
        return float(data)
    if hint in (int, str, bool) and type(data) is hint:
        return data
    expected = getattr(hint, "__name__", str(hint))
    raise BundleFormatError(f"{where}: {path} must be of type {expected}, found {_kind(data)}")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _kind(data: Any) -> str:
    return "null" if data is None else f"{type(data).__name__} {str(data)[:40]!r}"
