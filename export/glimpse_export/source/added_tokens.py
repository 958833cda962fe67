"""Tokens that a checkpoint's tokenizer has beside its ``tokenizer.json``, as transformers adds them when it loads it.

Trainers that add words save them in ``tokenizer_config.json`` (``added_tokens_decoder``), old ones in
``added_tokens.json`` and ``special_tokens_map.json``, which count where the former says nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as HFTokenizer

from glimpse_export.errors import CheckpointError
from glimpse_export.model.fields import Fields, read_json

CONFIG, OLD, OLD_SPECIAL = "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"
_NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_SAVE_AGAIN = "save the tokenizer again with transformers, or copy the base's files"
_FLAGS = ("lstrip", "normalized", "rstrip", "single_word", "special")


@dataclass(frozen=True)
class Added:
    """One token.

    Attributes:
        token: its text, and how it is looked for.
        index: its id, None where the file does not say.
        where: the file that has it.
    """

    token: AddedToken
    index: int | None
    where: str


def special_tokens(folder: Path) -> dict[str, str]:
    """Returns the special tokens by their names, such as ``eos_token``, which chat templates see.

    Raises:
        CheckpointError: a file is damaged.
    """
    config = read_json(folder / CONFIG, missing_ok=True)
    if "added_tokens_decoder" not in config:
        config = {**read_json(folder / OLD_SPECIAL, missing_ok=True), **config}
    found = {name: _content(config.get(name)) for name in _NAMES}
    return {name: text for name, text in found.items() if text is not None}


def add_tokens(tokenizer: HFTokenizer, folder: Path, source: Path) -> tuple[Added, ...]:
    """Adds to a tokenizer what its file lacks, in the order of transformers.

    Args:
        tokenizer: the one to change.
        folder: the checkpoint's.
        source: the file that the tokenizer was read from.

    Returns:
        What was added.

    Raises:
        CheckpointError: a token has another id in the tokenizer than its file says.
    """
    added = []
    for entry in _listed(folder):
        known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        if entry.token.content not in known:
            (tokenizer.add_special_tokens if entry.token.special else tokenizer.add_tokens)([entry.token])
            added.append(entry)
        index = tokenizer.token_to_id(entry.token.content)
        if entry.index is not None and index != entry.index:
            raise CheckpointError(
                f"{entry.where}: {entry.token.content[:60]!r} has the id {entry.index}, but in {source} it is or "
                f"becomes {index}; the files are not of one tokenizer: save it again with transformers, or copy the "
                "base's files"
            )
    return tuple(added)


def _listed(folder: Path) -> Iterator[Added]:
    """Yields all tokens that are listed beside the tokenizer's file."""
    path = folder / CONFIG
    config = read_json(path, missing_ok=True)
    fields = Fields(config, str(path))
    if config.get("added_tokens_decoder") is not None:
        yield from _decoder(fields)
        special = config
    else:
        old = folder / OLD_SPECIAL
        special = {**read_json(old, missing_ok=True), **config}
        yield from _old(folder / OLD, set(_special(special, path)))
    yield from (Added(_token(text, {"special": True}, str(path)), None, str(path)) for text in _special(special, path))


def _decoder(fields: Fields) -> Iterator[Added]:
    entries = fields.nested("added_tokens_decoder")
    for index, entry in entries.items():
        text = _content(entry)
        if not index.isdecimal() or text is None or not isinstance(entry, Mapping):
            raise fields.wrong("added_tokens_decoder", "tokens by their ids")
        yield Added(_token(text, entry, fields.where), int(index), fields.where)


def _old(path: Path, special: set[str]) -> Iterator[Added]:
    entries = read_json(path, missing_ok=True)
    for text, index in sorted(
        entries.items(), key=lambda item: (type(item[1]) is int, item[1] if type(item[1]) is int else 0)
    ):
        if type(index) is not int:
            raise CheckpointError(f"{path}: the id of {text[:60]!r} must be a number; save the tokenizer again")
        yield Added(_token(text, {"special": text in special}, str(path)), index, str(path))


def _special(config: Mapping[str, Any], path: Path) -> Iterable[str]:
    named = [_content(config.get(name)) for name in _NAMES]
    more: list[object] = []
    for name in _LISTS:
        part = config.get(name) or ()
        if not isinstance(part, (Mapping, list, tuple)):
            raise CheckpointError(f"{path}: {name} must be a list of tokens; {_SAVE_AGAIN}")
        more += part.values() if isinstance(part, Mapping) else part
    return dict.fromkeys(text for text in (*named, *map(_content, more)) if text)


def _content(entry: object) -> str | None:
    text = entry.get("content") if isinstance(entry, Mapping) else entry
    return text if isinstance(text, str) and text else None


def _token(text: str, flags: Mapping[str, Any], where: str) -> AddedToken:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CheckpointError(f"{where}: the token {text[:60]!r} is not valid Unicode text; {_SAVE_AGAIN}") from None
    special = bool(flags.get("special", False))
    given = {name: bool(flags[name]) for name in _FLAGS if name in flags}
    return AddedToken(text, **{"normalized": not special, **given})
