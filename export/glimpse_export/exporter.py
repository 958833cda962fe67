"""Runs a plan: graphs, embedding table, tokenizer and manifest into a folder that appears whole or not at all."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer as HFTokenizer

from glimpse_export.certify import certified
from glimpse_export.checkpoint import Checkpoint
from glimpse_export.errors import CheckpointError
from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.decoder import DecoderAuthor
from glimpse_export.graphs.dialects import dialect
from glimpse_export.graphs.scorer import ScorerAuthor
from glimpse_export.graphs.vision import VisionAuthor
from glimpse_export.graphs.weights import StoredTensor, WeightFile, data_type, tensor_bytes
from glimpse_export.manifest import build_manifest
from glimpse_export.options import ExportOptions
from glimpse_export.output import appearing, checked_output
from glimpse_export.planning import Plan, plan
from glimpse_export.precision import INTEGER
from glimpse_export.template import cut_template, read_template
from glimpse_runtime.bundle import sha256_of
from glimpse_runtime.manifest import MANIFEST_NAME, EmbeddingSpec, FileSpec, PromptSpec, StageSpec

Progress = Callable[[str], None]

_EMBEDDING = "model.embed_tokens.weight"
_TOKENIZER = "tokenizer.json"


def export(options: ExportOptions, out: Path, progress: Progress = lambda message: None) -> Path:
    """Exports a model to a bundle.

    Args:
        options: what to export.
        out: the bundle's folder; it appears when everything is written and hashed. Through a link, the folder it
            leads to is meant.
        progress: called with a line of text at the start of each step.

    Returns:
        The absolute folder.

    Raises:
        ExportError: it cannot be done; nothing is left behind, and nothing that was there is lost.
    """
    out = out.expanduser().absolute()
    place = checked_output(out, options.force)
    progress("reading configuration and tensor headers")
    checked = plan(options)
    with appearing(place) as folder:
        write_bundle(checked, folder, progress)
    return out


def write_bundle(checked: Plan, folder: Path, progress: Progress) -> None:
    """Writes all files of a bundle into an empty folder."""
    architecture, options = checked.architecture, checked.options
    spelled = dialect(options.dialect)
    stages: dict[str, StageSpec] = {}

    @contextmanager
    def weights(name: str) -> Iterator[WeightFile]:
        file = WeightFile(folder / name)
        try:
            yield file
        finally:
            file.close()

    def graph(stage: str, file: WeightFile, author: Callable[[GraphBuilder], None]) -> None:
        progress(f"{stage}: writing the graph and its weights")
        builder = GraphBuilder(stage, file, spelled.opset)
        author(builder)
        stages[stage] = builder.save(folder / f"{stage}.onnx")

    progress("embedding table")
    embedding = _write_embedding(checked.checkpoint, folder, checked.embedding_dtype)
    tied = None
    if architecture.text.tied and options.precision.head not in INTEGER:
        dtype, shape = data_type(embedding.dtype), (embedding.rows, embedding.columns)
        tied = StoredTensor(embedding.file, 0, tensor_bytes(dtype, shape), dtype, shape)
    with weights("vision.data") as file:
        graph("vision", file, VisionAuthor(architecture, checked.checkpoint, spelled, options.precision.vision).author)
    with weights("score.data") as file:
        graph("score", file, ScorerAuthor(architecture, checked.adapter, spelled, options.trace).author)
    vectors = checked.adapter.glimpse_vectors(architecture.glimpse) if architecture.glimpse.length else None
    author = DecoderAuthor(architecture, checked.checkpoint, spelled, options.precision, options.trace)
    with weights("text.data") as file:
        graph("lower", file, lambda g: author.lower(g, vectors))
        graph("upper", file, lambda g: author.upper(g, tied))
    prompt = _write_tokenizer(checked, folder) if options.tokenizer else None
    progress("hashing")
    files = {
        path.name: FileSpec(path.stat().st_size, sha256_of(path)) for path in sorted(folder.iterdir()) if path.is_file()
    }
    manifest = certified(checked, folder, build_manifest(checked, stages, embedding, prompt, files), progress)
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")


def _write_embedding(checkpoint: Checkpoint, folder: Path, dtype: str) -> EmbeddingSpec:
    table = checkpoint.matrix(_EMBEDDING)
    path = folder / "embed_tokens.bin"
    with path.open("wb") as file:
        for start, stop in table.runs():
            table.read(start, stop).astype(dtype).tofile(file)
    return EmbeddingSpec(path.name, dtype, table.rows, table.columns)


def _write_tokenizer(checked: Plan, folder: Path) -> PromptSpec:
    base = checked.folders.base
    source = base / _TOKENIZER
    if not source.is_file():
        raise CheckpointError(f"{source} is missing; without it export for token ids only with --no-tokenizer")
    try:
        tokenizer = HFTokenizer.from_file(str(source))
    except Exception as error:  # the Rust library raises plain Exception
        raise CheckpointError(f"{source} cannot be read ({error}); download the checkpoint again") from None
    if tokenizer.get_vocab_size() > checked.architecture.text.vocab_size:
        raise CheckpointError(
            f"{source} has {tokenizer.get_vocab_size()} words, the model only {checked.architecture.text.vocab_size}"
        )
    prompt = cut_template(read_template(base), str(base))
    image = tokenizer.id_to_token(checked.architecture.tokens.image)
    if image is None or prompt.image.count(image) != 1:
        raise CheckpointError(f"{base}: the chat template does not place the image token {image!r} once per image")
    shutil.copyfile(source, folder / _TOKENIZER)
    return prompt
