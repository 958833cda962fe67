"""Writes a checkpoint and adapter of a known model with random weights, for measurements without the real ones.

    python benchmarks/make_checkpoint.py DIR [--model qwen2.5-vl-3b] [--seed 0]
    python benchmarks/make_checkpoint.py DIR --layers 3 --vision-depth 3 --vocab 12672

``DIR/base`` and ``DIR/adapter`` look as published: sizes, tensor names, bfloat16 shards, configuration files. The
tokenizer knows pocket's words, with special tokens at their published ids. Depths and vocabulary can be cut; the
glimpse then sits at two thirds of the depth. Weights are distinct; activations are sane and have the few huge channels
of the real models; answers mean nothing.
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.export.checkpoints.adapters import write_adapter
from benchmarks.export.checkpoints.draw import Piece, draw_piece
from benchmarks.export.checkpoints.files import MARKED_TOKENS, Vocabulary, adapter_config, base_files
from benchmarks.export.checkpoints.shards import SHARD_BYTES, write_shards
from benchmarks.export.checkpoints.towers import Decoder, Tower
from glimpse_export.graphs import decoder
from glimpse_export.model.family import ModelConfigs, find_family
from glimpse_models import MODELS
from glimpse_models.qwen2_5_vl.dims import QwenDims

PUBLISHED = {
    name: facts.dims
    for name, facts in MODELS.items()
    if isinstance(facts.dims, QwenDims) and not facts.base.startswith("package:")
}


def cut(dims: QwenDims, layers: int | None = None, depth: int | None = None, vocab: int | None = None) -> QwenDims:
    """Returns smaller dims of the same widths."""
    if layers is not None:
        dims = dataclasses.replace(dims, layers=layers, reduce_layer=max(layers * 2 // 3 - 1, 0))
    if depth is not None:
        full = tuple(range(depth - 1, -1, -8))[::-1]
        taps = tuple(range(depth - 1, -1, -max(depth // 4, 1)))[:4]
        dims = dataclasses.replace(dims, vision_depth=depth, full_attention=full, taps=taps)
    return dims if vocab is None else dataclasses.replace(dims, vocab_size=vocab)


def write(folder: Path, dims: QwenDims, seed: int = 0, shard_bytes: int = SHARD_BYTES) -> tuple[Path, Path]:
    """Writes ``base/`` and ``adapter/`` below ``folder``, which appear whole or not at all, and returns them.

    Raises:
        FileExistsError: the folder holds something already.
        ValueError: the dims make no model.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name another folder or remove it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=folder.parent))
    try:
        work.chmod(0o755)
        _write(work, dims, seed, shard_bytes)
        os.replace(work, folder)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return folder / "base", folder / "adapter"


def _write(folder: Path, dims: QwenDims, seed: int, shard_bytes: int) -> None:
    base, adapter = folder / "base", folder / "adapter"
    base.mkdir()
    adapter.mkdir()
    files = base_files(dims)
    for name, content in files.items():
        (base / name).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    (adapter / "config.json").write_text(json.dumps(adapter_config(dims), indent=2))
    family = find_family(files["config.json"], "config.json")
    architecture = family.read_architecture(ModelConfigs.read(base, adapter))
    tower = Tower(architecture, seed)
    vocabulary = Vocabulary(dims.vocab_size)
    marked = [vocabulary.special(token) for token in MARKED_TOKENS]
    text = Decoder(architecture, vocabulary.words, marked, seed)

    def values(piece: Piece) -> object:
        part = tower if piece.name.startswith("visual.") else text
        return draw_piece(seed, piece, part.recipe(piece.name))

    shapes = decoder.expected_tensors(architecture) | dict(family.vision_tensors(architecture))
    write_shards(base, shapes, values, shard_bytes)
    write_adapter(adapter / "new_modules_gp.pt", architecture, tower.residual, seed)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=tuple(PUBLISHED), default=next(iter(PUBLISHED)))
    parser.add_argument("--layers", type=int, help="cut the decoder")
    parser.add_argument("--vision-depth", type=int, help="cut the vision encoder")
    parser.add_argument("--vocab", type=int, help="cut the vocabulary")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dims = cut(PUBLISHED[options.model], options.layers, options.vision_depth, options.vocab)
    try:
        print(*write(options.folder, dims, options.seed))
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
