"""The small files of a checkpoint and adapter, as published."""

import json
from typing import Any

from glimpse_export.source.resolve import resolve
from glimpse_models.qwen2_5_vl.facts.dims import QwenDims
from glimpse_models.qwen2_5_vl.facts.published import (
    IMAGES,
    SPECIAL_TOKENS,
    base_config,
    first_special,
    generation_config,
)

MARKED_TOKENS = ("<|im_start|>", "<|vision_start|>")
"""Those that carry massive activations, as first tokens and separators do in the real models."""


class Vocabulary:
    """Which ids the tokenizer gives out."""

    def __init__(self, rows: int) -> None:
        """Fits into an embedding table of ``rows``."""
        self.first_special = first_special(rows)
        self.words = self.first_special + len(SPECIAL_TOKENS)

    def special(self, token: str) -> int:
        """Returns the id of a special token."""
        return self.first_special + SPECIAL_TOKENS.index(token)

    def tokenizer(self) -> dict[str, Any]:
        """Returns ``tokenizer.json``: pocket's words, special tokens at their published ids, fillers between.

        Nothing is ever encoded as a filler; as an answer it reads as ``w`` and its id.

        Raises:
            ValueError: the table is too small for pocket's words.
        """
        content = _pocket("tokenizer.json")
        special = {token["content"] for token in content["added_tokens"]}
        words = {word: index for word, index in content["model"]["vocab"].items() if word not in special}
        if len(words) > self.first_special:
            raise ValueError(f"--vocab must be at least {len(words) + len(SPECIAL_TOKENS)}")
        words |= {f"Ġw{index}": index for index in range(len(words), self.first_special)}
        # The library numbers added tokens anew unless the model's vocabulary has them.
        words |= {token: self.special(token) for token in SPECIAL_TOKENS}
        content["model"]["vocab"] = words
        content["added_tokens"] = [{"id": self.special(token), **_added(token)} for token in SPECIAL_TOKENS]
        return content


def base_files(dims: QwenDims) -> dict[str, dict[str, Any]]:
    """Returns the base checkpoint's JSON files by name."""
    vocabulary = Vocabulary(dims.vocab_size)
    return {
        "config.json": base_config(dims),
        "generation_config.json": generation_config(dims),
        "preprocessor_config.json": dict(IMAGES),
        "tokenizer.json": vocabulary.tokenizer(),
        "tokenizer_config.json": {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": {str(vocabulary.special(token)): _added(token) for token in SPECIAL_TOKENS},
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 131072,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
        "chat_template.json": {
            "chat_template": (resolve("pocket").base / "chat_template.jinja").read_text(encoding="utf-8")
        },
    }


def _added(token: str) -> dict[str, Any]:
    plain = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": token, **plain, "special": token.startswith("<|") and not token.startswith("<|fim")}


def _pocket(name: str) -> dict[str, Any]:
    return json.loads((resolve("pocket").base / name).read_text(encoding="utf-8"))
