"""The small files of a checkpoint, its vision tower and adapter, as published."""

from typing import Any

from glimpse_models.llava_1_5.facts.dims import LlavaDims
from glimpse_models.llava_1_5.facts.published import GENERATION, base_config


def base_files(dims: LlavaDims) -> dict[str, dict[str, Any]]:
    """Returns the base checkpoint's JSON files by name."""
    return {
        "config.json": base_config(dims),
        "generation_config.json": dict(GENERATION),
        "special_tokens_map.json": {
            key: _added(token)
            for key, token in (
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("pad_token", "<unk>"),
                ("unk_token", "<unk>"),
            )
        },
        "tokenizer_config.json": {
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": {"__type": "AddedToken", **_added("<s>")},
            "clean_up_tokenization_spaces": False,
            "eos_token": {"__type": "AddedToken", **_added("</s>")},
            "legacy": False,
            "model_max_length": 2048,
            "pad_token": None,
            "padding_side": "right",
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
            "unk_token": {"__type": "AddedToken", **_added("<unk>")},
        },
    }


def _added(token: str) -> dict[str, Any]:
    return {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
