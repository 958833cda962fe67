"""What ``adapter_config.json`` of a PEFT folder says about how its LoRA weights are merged.

Meaning and defaults as in peft's ``LoraConfig``.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from glimpse_export.errors import CheckpointError, UnsupportedError
from glimpse_export.model.fields import Fields, given, read_json
from glimpse_export.model.refusals import HOW_TO_MERGE, refuse_lora
from glimpse_export.source.lora.patterns import matching

CONFIG = "adapter_config.json"
Number = TypeVar("Number", int, float)
_ALL_LINEAR = "all-linear"
# Other ways to begin, such as PiSSA, take something off the base weights first, so the adapter is not of this base.
_INITS = (True, False, "gaussian", "eva", "orthogonal")
_BIASES = ("none", "all", "lora_only")


@dataclass(frozen=True)
class LoraConfig:
    """How a LoRA is merged; modules are named as in training, patterns are regular expressions of the names' ends.

    Attributes:
        where: the file.
        base: what the base model was called in training.
        rank: of all modules that no pattern of ``ranks`` matches.
        alpha: the same for ``alphas``.
        ranks: by pattern.
        alphas: by pattern.
        rank_stabilised: the scale is alpha / sqrt(rank) instead of alpha / rank.
        targets: the modules with LoRA weights: a regular expression, or ends of their names; None is any.
        saved: ends of the names of modules that were trained as a whole.
        has_biases: whether biases were trained as well.
        modules: all modules that there are weights of, for which the patterns are matched once.
    """

    where: str
    base: str | None
    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rank_stabilised: bool
    targets: str | tuple[str, ...] | None
    saved: tuple[str, ...]
    has_biases: bool
    modules: tuple[str, ...] = ()

    def rank_of(self, module: str) -> int:
        """Returns the rank of a module's weights."""
        return self._first_match(self.ranks, module, self.rank)

    def scale_of(self, module: str) -> float:
        """Returns what B @ A is multiplied with."""
        rank, alpha = self.rank_of(module), self._first_match(self.alphas, module, self.alpha)
        return alpha / math.sqrt(rank) if self.rank_stabilised else alpha / rank

    def is_target(self, module: str) -> bool:
        """Returns whether peft gives a module LoRA weights."""
        if self.targets is None or self.targets == _ALL_LINEAR:
            return True
        if isinstance(self.targets, str):
            return module in matching(self.targets, self.modules, self.where)
        return any(_ends_with(module, target) for target in self.targets)

    def _first_match(self, values: Mapping[str, Number], module: str, default: Number) -> Number:
        """Returns the value of the first pattern that matches the end of a module's name, as peft does."""
        for pattern, value in values.items():
            if module in matching(pattern, self.modules, self.where, ends=True):
                return value
        return default


def read_lora_config(folder: Path) -> LoraConfig:
    """Reads a folder's ``adapter_config.json``.

    Raises:
        CheckpointError: it is missing, damaged, or a field makes no sense.
        UnsupportedError: it asks for more than plain LoRA.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; --lora takes a folder that peft's save_pretrained has written")
    config = given(read_json(path))
    fields = Fields(config, str(path))
    kind = fields.get("peft_type", str)
    fields.refuse(kind != "LORA", f"peft_type {kind!r}")
    refuse_lora(config, fields.where)
    start, bias = config.get("init_lora_weights", True), config.get("bias", "none")
    if start not in _INITS:
        raise UnsupportedError(f"{path}: init_lora_weights {start!r} has changed the base; {HOW_TO_MERGE}")
    fields.refuse(bias not in _BIASES, f"bias {bias!r}")
    return LoraConfig(
        where=str(path),
        base=fields.get("base_model_name_or_path", str, None),
        rank=fields.positive("r", 8),
        alpha=fields.get("lora_alpha", float, 8.0),
        ranks=_patterns(fields, "rank_pattern", Fields.positive),
        alphas=_patterns(fields, "alpha_pattern", lambda found, pattern: found.get(pattern, float)),
        rank_stabilised=fields.get("use_rslora", bool, False),
        targets=_targets(fields),
        saved=_names(fields, "modules_to_save"),
        has_biases=bias != "none",
    )


def _patterns(fields: Fields, key: str, read: Callable[[Fields, str], Any]) -> dict[str, Any]:
    found = fields.nested(key)
    values = Fields(found, f"{fields.where}, {key}")
    return {_pattern(fields, key, pattern): read(values, pattern) for pattern in found}


def _targets(fields: Fields) -> str | tuple[str, ...] | None:
    key = "target_modules"
    if isinstance(fields.get(key, object, None), str):
        return _pattern(fields, key, str(fields.get(key, str)))
    return _names(fields, key) or None


def _names(fields: Fields, key: str) -> tuple[str, ...]:
    names = fields.get(key, list, [])
    if not all(isinstance(name, str) and name for name in names):
        raise fields.wrong(key, "a list of names")
    return tuple(names)


def _pattern(fields: Fields, key: str, pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        raise CheckpointError(f"{fields.where}: {key} has {pattern[:60]!r}, which is no regular expression") from None
    return pattern


def _ends_with(module: str, name: str) -> bool:
    return f".{module}".endswith(f".{name}")
