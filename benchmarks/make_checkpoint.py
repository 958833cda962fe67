"""Writes a checkpoint and adapter of a known model with random weights, for measurements without the real ones.

    python benchmarks/make_checkpoint.py DIR [--model qwen2.5-vl-3b] [--seed 0]
    python benchmarks/make_checkpoint.py DIR --layers 3 --vision-depth 3 --vocab 12672

``DIR/base`` and ``DIR/adapter`` look as published: sizes, tensor names, shards, configuration files, a vision tower in
a folder of its own where the base names one. Depths and vocabulary can be cut; the glimpse then sits at two thirds of
the depth. Weights are distinct; activations are sane and have the few huge channels of the real models; answers mean
nothing. ``benchmarks/export/checkpoints`` has a package for each family.
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.export.checkpoints.adapters import write_adapter
from benchmarks.export.checkpoints.decoder import Decoder
from benchmarks.export.checkpoints.draw import Piece, draw_piece
from benchmarks.export.checkpoints.families import FAMILIES
from benchmarks.export.checkpoints.shards import write_weights
from glimpse_export.graphs.decoder import expected_tensors
from glimpse_export.model.family import ModelConfigs, find_family
from glimpse_models import MODELS, Dims

PUBLISHED = [name for name, facts in MODELS.items() if not facts.base.startswith("package:")]


def cut(dims: Dims, layers: int | None = None, depth: int | None = None, vocab: int | None = None) -> Dims:
    """Returns smaller dims of the same widths."""
    if layers is not None:
        dims = dataclasses.replace(dims, layers=layers, reduce_layer=max(layers * 2 // 3 - 1, 0))
    if depth is not None:
        dims = FAMILIES[type(dims)].cut_vision(dims, depth)
    return dims if vocab is None else dataclasses.replace(dims, vocab_size=vocab)


def write(folder: Path, dims: Dims, seed: int = 0, shard_bytes: int | None = None) -> tuple[Path, Path]:
    """Writes ``base/`` and ``adapter/`` below ``folder``, which appear whole or not at all, and returns them.

    A vision tower that published checkpoints leave in a repository of its own lies beside them, where export finds it.

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


def _write(folder: Path, dims: Dims, seed: int, shard_bytes: int | None) -> None:
    family = FAMILIES[type(dims)]
    files = family.files(dims)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        is_text = not isinstance(content, bytes)
        path.write_bytes(json.dumps(content, indent=2, ensure_ascii=False).encode() if is_text else content)
    base, adapter = folder / "base", folder / "adapter"
    configs = ModelConfigs.read(base, adapter, folder / family.tower_folder if family.tower_folder else None)
    architecture = find_family(configs.base, "config.json").read_architecture(configs)
    of_decoder, words = expected_tensors(architecture), family.words(dims)
    tower, text = family.tower(architecture, seed), Decoder(architecture, words.count, words.marked, seed)

    def values(piece: Piece) -> np.ndarray:
        part = text if piece.name in of_decoder else tower
        return draw_piece(seed, piece, part.recipe(piece.name))

    for name, weights in family.weights(architecture).items():
        write_weights(folder / name, weights.form, weights.shapes, values, shard_bytes, weights.always_index)
    write_adapter(adapter / "new_modules_gp.pt", architecture, tower.residual, seed)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=PUBLISHED, default=PUBLISHED[0])
    parser.add_argument("--layers", type=int, help="cut the decoder")
    parser.add_argument("--vision-depth", type=int, help="cut the vision encoder")
    parser.add_argument("--vocab", type=int, help="cut the vocabulary")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dims = cut(MODELS[options.model].dims, options.layers, options.vision_depth, options.vocab)
    try:
        print(*write(options.folder, dims, options.seed))
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
