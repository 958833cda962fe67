"""A LoRA adapter as peft saves it: what it changes of a base model's weights.

The names of its tensors are peft's: ``base_model.model.MODULE.lora_A.weight`` and ``lora_B.weight`` of a linear layer
or convolution, ``lora_embedding_A`` and ``lora_embedding_B`` of an embedding, and without ``lora_`` what was trained as
a whole.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from glimpse_export.errors import CheckpointError, UnsupportedError
from glimpse_export.model.refusals import HOW_TO_MERGE
from glimpse_export.source.lora.config import CONFIG, read_lora_config
from glimpse_export.source.tensor_file import TensorFile
from glimpse_runtime.arrays import FloatArray

WEIGHTS = "adapter_model.safetensors"
_FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(?:\.weight)?")
_WHOLE = re.compile(r"base_model\.model\.(?P<module>.+?)(?:\.base_layer)?\.(?P<part>weight|bias)")
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Product:
    """scale * B @ A, which is added to one weight of the base; for an embedding, its transpose.

    Attributes:
        file: holds the factors.
        a: the key of A, (rank, inputs).
        b: the key of B, (outputs, rank).
        rank: what the configuration says.
        scale: the same.
        is_embedding: the weight is (inputs, outputs).
    """

    file: TensorFile
    a: str
    b: str
    rank: int
    scale: float
    is_embedding: bool

    def shapes_for(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of both factors that fit a weight, by their keys; a convolution's B has a kernel of 1."""
        if self.is_embedding:
            return {self.a: (self.rank, shape[0]), self.b: (*shape[1:], self.rank)}
        return {self.a: (self.rank, *shape[1:]), self.b: (shape[0], self.rank, *[1] * (len(shape) - 2))}

    def rows(self, start: int, stop: int | None) -> FloatArray:
        """Returns rows start..stop, (rows, the rest) float32: the same bits whatever run of rows they are read in.

        A matrix product of BLAS adds up in an order that changes with the number of rows. Export and certificate read
        other runs and compare every bit, so each row is summed by itself, in the order of the rank.
        """
        run = slice(start, stop)
        if self.is_embedding:
            left, right = self.file.read(self.a, slice(None), run).T, self.file.read(self.b).T
        else:
            left, right = self.file.read(self.b, run), self.file.read(self.a)
        rows: FloatArray = np.einsum(
            "or,ri->oi",
            np.ascontiguousarray(left.reshape(-1, self.rank)),
            np.ascontiguousarray(right.reshape(self.rank, -1)),
        )
        rows *= np.float32(self.scale)
        return rows


class Lora:
    """A PEFT folder with LoRA weights.

    Attributes:
        files: all that merged weights depend on, beside the base.
        products: what is added to weights of the base, by their published names.
    """

    def __init__(self, folder: Path, rename: Callable[[str], str | None] = lambda key: key) -> None:
        """Reads the configuration and the header of the weights.

        Args:
            folder: the adapter's.
            rename: turns a name of the base in training into the published one; None stands for one that is not used.

        Raises:
            CheckpointError: a file or half of a pair is missing, or they contradict each other.
            UnsupportedError: it is more than plain LoRA.
        """
        self._config = read_lora_config(folder)
        self._rename = rename
        self.files = (folder / CONFIG, folder / WEIGHTS)
        if not self.files[1].is_file():
            raise CheckpointError(
                f"{self.files[1]} is missing; an adapter_model.bin is not read: load it with peft and save it again"
            )
        self._file = TensorFile(self.files[1])
        self.products: dict[str, Product] = {}
        self._whole: dict[str, str] = {}
        self._sort()
        self._check_complete()

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of its products, each once."""
        return tuple(sorted({product.rank for product in self.products.values()}))

    def check(self, shapes: Mapping[str, tuple[int, ...]], base: Path, tied: bool) -> None:
        """Compares it with the base it is to be merged into.

        Args:
            shapes: the base's, by published names.
            base: the base's folder.
            tied: whether the base's LM head is its embedding table.

        Raises:
            CheckpointError: it is of another base.
            UnsupportedError: it changes one of two tied weights.
        """
        named = f" ({self._config.where} names {self._config.base})" if self._config.base else ""
        other = f"the LoRA was trained on another base than {base}{named}"
        for name, keys in self._keys():
            if name in (_EMBEDDING, _HEAD):
                self._refuse_grown(name, shapes[_EMBEDDING], base)
            if tied and name in (_EMBEDDING, _HEAD):
                raise UnsupportedError(
                    f"{self._file.path}: tensor {keys[0]} changes one of embedding and LM head, which {base} ties; "
                    f"untie them (tie_word_embeddings false), {HOW_TO_MERGE}"
                )
            if name not in shapes:
                raise self._error(keys[0], f"is for {name}, which the base lacks; {other}")
            product, whole = self.products.get(name), self._whole.get(name)
            if product is not None and product.is_embedding != (name == _EMBEDDING):
                raise self._error(keys[0], f"is not what LoRA weights of {name} are called; {HOW_TO_MERGE}")
            fitting = {} if whole is None else {whole: shapes[name]}
            fitting |= {} if product is None else product.shapes_for(shapes[name])
            for key, shape in fitting.items():
                if self._file.shapes[key] != shape:
                    raise self._error(
                        key, f"has shape {self._file.shapes[key]}, {name} {shapes[name]} asks for {shape}; {other}"
                    )

    def changes(self, name: str) -> bool:
        """Returns whether it changes a tensor of the base."""
        return name in self.products or name in self._whole

    def replacement(self, name: str, start: int, stop: int | None) -> FloatArray | None:
        """Returns rows start..stop of a tensor that was trained as a whole, None for others."""
        return self._file.read(self._whole[name], slice(start, stop)) if name in self._whole else None

    def _sort(self) -> None:
        """Finds out what every tensor of the file is."""
        factors: dict[str, dict[str, str]] = {}
        for key in sorted(self._file.shapes):
            if found := _FACTOR.fullmatch(key):
                factors.setdefault(found["module"], {})[f"{found['embedding'] or ''}{found['factor']}"] = key
            elif (found := _WHOLE.fullmatch(key)) and ".lora_" not in key:
                name = self._name(f"{found['module']}.{found['part']}")
                if name in self._whole:
                    raise self._error(key, f"is for {name} like {self._whole[name]}; one of them is too much")
                self._whole[name] = key
            else:
                raise self._error(key, f"is nothing that LoRA weights consist of; {HOW_TO_MERGE}")
        self._config = replace(self._config, modules=tuple(factors))
        for module, keys in factors.items():
            name, product = self._name(f"{module}.weight"), self._product(module, keys)
            if name in self.products:
                raise self._error(product.a, f"is for {name} like {self.products[name].a}; one of them is too much")
            self.products[name] = product

    def _name(self, key: str) -> str:
        return self._rename(key) or key

    def _product(self, module: str, keys: Mapping[str, str]) -> Product:
        kind = "" if {"A", "B"} & set(keys) else "embedding_"
        if set(keys) != {f"{kind}A", f"{kind}B"}:
            raise self._error(min(keys.values()), "has no counterpart A or B; the file is incomplete")
        a, b, rank = keys[f"{kind}A"], keys[f"{kind}B"], self._config.rank_of(module)
        if not self._config.is_target(module):
            raise self._error(a, f"is of no module that target_modules in {self._config.where} names")
        if self._file.shapes[a][:1] != (rank,):
            raise self._error(a, f"has shape {self._file.shapes[a]}, {self._config.where} says rank {rank}")
        return Product(self._file, a, b, rank, self._config.scale_of(module), bool(kind))

    def _check_complete(self) -> None:
        if not self.products:
            raise CheckpointError(f"{self._file.path} holds no LoRA weights; save the adapter again")
        for module in self._config.saved:
            if not any(f"{module}." in key for key in self._whole.values()):
                raise CheckpointError(
                    f"{self._file.path} has no tensor of {module}, which modules_to_save in {self._config.where} names"
                )
        if self._config.has_biases and not any(name.endswith(".bias") for name in self._whole):
            raise CheckpointError(
                f"{self._file.path} has none of the biases that were trained (bias in {self._config.where})"
            )

    def _keys(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yields every tensor of the base that is changed, and the keys of what changes it."""
        yield from ((name, (product.a, product.b)) for name, product in self.products.items())
        yield from ((name, (key,)) for name, key in self._whole.items())

    def _refuse_grown(self, name: str, table: tuple[int, ...], base: Path) -> None:
        """Refuses weights of an embedding or LM head that differ from the base's in the number of words alone."""
        product, whole = self.products.get(name), self._whole.get(name)
        words, width = table
        found = {} if whole is None else {whole: self._file.shapes[whole]}
        if product is not None:
            key = product.a if product.is_embedding else product.b
            found[key] = (self._file.shapes[key][-1 if product.is_embedding else 0], width)
        for key, shape in found.items():
            if len(shape) == 2 and shape[0] != words and shape[1] == width:
                raise self._error(
                    key,
                    f"is for {shape[0]} words, {base} has {words}: the vocabulary was changed for the training; give "
                    f"the base with the same change and its tokenizer, or {HOW_TO_MERGE}",
                )

    def _error(self, key: str, what: str) -> CheckpointError:
        return CheckpointError(f"{self._file.path}: tensor {key} {what}")
