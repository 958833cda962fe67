"""The weight files of a Hugging Face folder: safetensors, or torch's pickles where there are none."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

from glimpse_export.errors import CheckpointError
from glimpse_export.model.fields import read_json
from glimpse_export.source.tensor_file import TensorFile
from glimpse_export.source.torch_file import TorchFile

PATTERNS = ("*.safetensors", "pytorch_model*.bin")
"""Names of weight files on the hub; the first that a repository has is enough."""

# In the order in which transformers looks: the single file before the index of several.
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def weight_files(folder: Path) -> list[str]:
    """Returns the names of a folder's weight files, sorted.

    Raises:
        CheckpointError: there are none, or one that the index names is missing.
    """
    for name in (*_SAFETENSORS, *_PICKLES):
        path = folder / name
        if path.is_file():
            names = _shard_names(path) if name.endswith(".json") else [name]
            break
    else:
        single, index = _SAFETENSORS
        raise CheckpointError(
            f"{folder} has no {single} and no {index}, nor {' or '.join(_PICKLES)}; the checkpoint is incomplete"
        )
    for name in names:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing; download the checkpoint again")
    return names


def open_weights(path: Path, wanted: Callable[[str], bool]) -> TensorFile | TorchFile:
    """Opens a weight file, which is what the end of its name says.

    Raises:
        CheckpointError: it cannot be read.
    """
    return TensorFile(path, wanted) if path.suffix == ".safetensors" else TorchFile(path, wanted)


def _shard_names(path: Path) -> list[str]:
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map; download the checkpoint again")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not name:
            raise CheckpointError(f"{path}: weight_map gives {name!r} as the file of {tensor}; download it again")
        if name != PurePosixPath(name).name or name != PureWindowsPath(name).name or name in (".", ".."):
            raise CheckpointError(
                f"{path}: weight_map gives {name[:80]!r} as the file of {tensor}, which lies outside the folder; put "
                "the file into the folder and name it without a path, or download the checkpoint again"
            )
    return sorted(set(weight_map.values()))
