"""Tokens that lie beside tokenizer.json: merged as transformers merges them, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from support.files import edit_json
from tokenizers import Tokenizer as HFTokenizer
from tokenizers.models import WordLevel
from written_forms import ACT, RECORDED, TEXTS, options, put, write

from glimpse_export import CheckpointError, export, plan
from glimpse_export.errors import CertificateError
from glimpse_export.source.added_tokens import add_tokens


@pytest.mark.parametrize("file", ["tokenizer_config.json", "added_tokens.json", "extra", "additional"])
def test_words_beside_the_tokenizer_are_merged(tmp_path: Path, file: str) -> None:
    base = write(tmp_path / "base", "transformers-5.24")
    if file == "added_tokens.json":
        put(base / file, {"<act>": ACT})
    elif file == "extra":
        listed = json.loads((base / "tokenizer_config.json").read_text())["extra_special_tokens"]
        edit_json(base / "tokenizer_config.json", extra_special_tokens=[*listed, "<act>"])
    elif file == "additional":
        edit_json(base / "tokenizer_config.json", extra_special_tokens=..., additional_special_tokens=["<act>"])
    else:
        listed = json.loads((RECORDED / "transformers-4.52" / "loaded" / file).read_text())["added_tokens_decoder"]
        edit_json(base / file, added_tokens_decoder={**listed, str(ACT): {"content": "<act>", "special": False}})
    theirs = transformers.AutoTokenizer.from_pretrained(base)
    bundle = export(options(base), tmp_path / "bundle")
    ours = HFTokenizer.from_file(str(bundle / "tokenizer.json"))
    assert ours.token_to_id("<act>") == theirs.convert_tokens_to_ids("<act>") == ACT
    for text in TEXTS:
        assert ours.encode(text, add_special_tokens=False).ids == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"445": {"content": "<act>"}}, "'<act>' has the id 445, but in .*tokenizer.json it is or becomes 442"),
        ({"441": {"content": "<act>"}}, "'<act>' has the id 441, but in .*tokenizer.json it is or becomes 442"),
        ({"x": {"content": "<act>"}}, "'added_tokens_decoder' must be tokens by their ids"),
        (
            {str(442 + i): {"content": f"<{i}>"} for i in range(7)},
            "'<6>' has the id 448, and the model has only 448 words",
        ),
    ],
)
def test_words_that_do_not_fit_are_refused_by_name(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    base = write(tmp_path / "base", "transformers-5.24")
    edit_json(base / "tokenizer_config.json", added_tokens_decoder=entry)
    with pytest.raises(CheckpointError, match=message):
        plan(options(base))


@pytest.mark.slow
def test_a_tokenizer_that_transformers_reads_otherwise_fails_the_certificate(tmp_path: Path) -> None:
    base = write(tmp_path / "base", "transformers-5.24")
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{N}+|\p{L}+|\s+|[^\s\p{L}\p{N}]+"
    put(base / "tokenizer.json", tokenizer)
    with pytest.raises(CertificateError, match=r"does not read text as transformers does .*different_tokens"):
        export(options(base, certify="quick"), tmp_path / "bundle")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"added_tokens_decoder": {"440": {"content": "\ud800"}}}, "not valid Unicode text"),
        ({"extra_special_tokens": ["a\udfff"]}, "not valid Unicode text"),
        ({"pad_token": "\ud800"}, "not valid Unicode text"),
        ({"additional_special_tokens": True}, "additional_special_tokens must be a list of tokens"),
        ({"extra_special_tokens": 7}, "extra_special_tokens must be a list of tokens"),
        ({"extra_special_tokens": "<a>"}, "extra_special_tokens must be a list of tokens"),
    ],
)
def test_tokens_that_are_no_texts_are_refused(tmp_path: Path, config: dict[str, object], message: str) -> None:
    """JSON can hold half of a surrogate pair, and anything where a list belongs."""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        add_tokens(HFTokenizer(WordLevel({"a": 0}, "a")), tmp_path, Path("tokenizer.json"))
