"""What an export is made from, by content: nothing here depends on where the files lie."""

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from glimpse_export.planning.plan import Plan
from glimpse_export.source.hashes import content_sha256


@dataclass(frozen=True)
class Sources:
    """SHA-256 of every file whose bytes go into a bundle.

    Attributes:
        base: of the base model's weight files, by file name.
        adapter: of the adapter's weights.
        tokenizer: one hash for all files that the tokenizer is made of, None for a bundle without one.
        lora: of the LoRA adapter's files, by file name; None without one.
        pruners: of the trained weights of pruning methods, by file name.
        tower: of the weight files of a vision tower in a folder of its own, by file name; None without one.
    """

    base: Mapping[str, str]
    adapter: str
    tokenizer: str | None
    lora: Mapping[str, str] | None = None
    pruners: Mapping[str, str] = field(default_factory=dict)
    tower: Mapping[str, str] | None = None

    @property
    def base_sha256(self) -> str:
        """One hash for all weight files, as the manifest's ``SourceSpec`` describes it."""
        return _one_hash(self.base)

    @property
    def tower_sha256(self) -> str | None:
        """The same for a vision tower's."""
        return None if self.tower is None else _one_hash(self.tower)

    @property
    def lora_sha256(self) -> str | None:
        """The same for a LoRA adapter's files."""
        return None if self.lora is None else _listed(self.lora)


def read_sources(plan: Plan, progress: Callable[[str], None]) -> Sources:
    """Hashes the files of a plan, or remembers their hashes.

    Raises:
        CheckpointError: a file cannot be read.
    """
    one = partial(content_sha256, progress=progress)
    checkpoint = plan.checkpoint
    with ThreadPoolExecutor(2) as pool:
        hashes = list(pool.map(one, checkpoint.files))
    names = [*checkpoint.file_names, *checkpoint.tower_file_names]
    count = len(checkpoint.file_names)
    base, tower = (dict(zip(names[part], hashes[part], strict=True)) for part in (slice(count), slice(count, None)))
    tokenizer = None
    if plan.options.tokenizer:
        tokenizer = _one_hash({path.name: one(path) for path in plan.family.tokenizer_files(plan.folders.base)})
    lora = None if plan.lora is None else {path.name: one(path) for path in plan.lora.files}
    pruners = {path.name: one(path) for path in plan.pruners}
    return Sources(base, one(plan.adapter.path), tokenizer, lora, pruners, tower or None)


def _one_hash(files: Mapping[str, str]) -> str:
    return next(iter(files.values())) if len(files) == 1 else _listed(files)


def _listed(files: Mapping[str, str]) -> str:
    lines = [f"{sha256}  {name}\n" for name, sha256 in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
