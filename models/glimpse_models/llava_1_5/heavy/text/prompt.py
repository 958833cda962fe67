"""The prompt that published adapters were trained on: ``vicuna_v1`` of the original, in both file layouts.

The original cuts a prompt at ``<image>`` and encodes each part on its own. LLaMA's tokenizer puts a space before each
text it is given, and with ``legacy`` also before the text behind a special word. Those spaces stand in the pieces here,
right behind the special word they follow. The chat template of llava-hf's repositories is not read: it has no system
message and another end of an answer.
"""

from collections.abc import Mapping
from pathlib import Path

from glimpse_export.errors import CheckpointError, UnsupportedError
from glimpse_export.model.architecture import Architecture
from glimpse_export.model.fields import Fields, read_json
from glimpse_models.llava_1_5.heavy.text.tokenizer import BEGIN, END, IMAGE, make_tokenizer, tokenizer_file
from glimpse_runtime.bundle.manifest import PromptSpec

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_CONFIG = "tokenizer_config.json"
_ADDED = "added_tokens.json"
_UNSPOKEN = ("<pad>", "[PAD]")
"""Added words that no model writes: a tokenizer without them does the same."""


def read_prompt(base: Path, architecture: Architecture) -> PromptSpec:
    """Checks the tokenizer and returns the pieces of the prompt.

    Raises:
        CheckpointError: a file is missing or damaged, or does not fit the model.
        UnsupportedError: the tokenizer is not of LLaMA's kind, or has settings that the original does not have.
    """
    known = make_tokenizer(base, architecture).get_vocab()
    config = Fields(read_json(base / _CONFIG, missing_ok=True), str(base / _CONFIG))
    config.refuse(config.get("add_bos_token", bool, None) is False, "add_bos_token false")
    config.refuse(config.get("add_eos_token", bool, None) is True, "add_eos_token true")
    for where, added in ((base / _CONFIG, _listed(config)), (base / _ADDED, read_json(base / _ADDED, missing_ok=True))):
        _check_added(added, known, where, tokenizer_file(base).name)
    return vicuna(legacy=config.get("legacy", bool, None) is not False)


def files(base: Path) -> tuple[Path, ...]:
    """Returns the files of a folder that prompt and tokenizer depend on."""
    return tokenizer_file(base), *(base / name for name in (_CONFIG, _ADDED) if (base / name).is_file())


def vicuna(legacy: bool) -> PromptSpec:
    """Returns the pieces.

    Args:
        legacy: whether the tokenizer puts a space before the text behind every special word.
    """
    return PromptSpec(
        default_system=SYSTEM,
        system_open=f"{BEGIN} ",
        system_close=" ",
        user_open="USER: ",
        user_close=" ",
        assistant_open="ASSISTANT:",
        assistant_close=f"{END} " if legacy else END,
        image=f"{IMAGE} \n",
        answer_open=" ",
    )


def _listed(config: Fields) -> dict[str, object]:
    """Returns the added words that a ``tokenizer_config.json`` lists by their ids."""
    added: dict[str, object] = {}
    for index, entry in config.nested("added_tokens_decoder").items():
        word = entry.get("content") if isinstance(entry, Mapping) else None
        if not index.isdecimal() or not isinstance(word, str):
            raise config.wrong("added_tokens_decoder", "words by their ids")
        added[word] = int(index)
    return added


def _check_added(added: Mapping[str, object], known: Mapping[str, int], where: Path, file: str) -> None:
    """Refuses words that the tokenizer's file does not have, or has at another id."""
    words = {index: word for word, index in known.items()}
    for word, index in added.items():
        if word in _UNSPOKEN and word not in known:
            continue
        if type(index) is not int or known.get(word, index) != index or words.get(index, word) != word:
            raise CheckpointError(
                f"{where}: {word!r} is token {index!r}; in {file}, or as the model's image token, that is another word "
                "or id: the files are not of one model"
            )
        if word not in known:
            raise UnsupportedError(
                f"{where} adds {word!r}, which {file} does not have; save a tokenizer.json that has it with the "
                "original's tokenizer, and remove tokenizer.model"
            )
