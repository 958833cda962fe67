"""LLaMA's tokenizer in the form of a bundle: sentencepiece's own ids, from either published file."""

import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("google.protobuf")
pytest.importorskip("sentencepiece")

import sentencepiece
from sentencepiece_files import BYTE, MERGED, NORMAL, UNUSED, USER_DEFINED, pieces, write_model

from glimpse_export.errors import CheckpointError, ExportError, UnsupportedError
from glimpse_models.llava_1_5.heavy.text.sentencepiece_model import message_class
from glimpse_models.llava_1_5.heavy.text.tokenizer import LARGEST_FILE, read_vocabulary, tokenizer_file, write_tokenizer
from glimpse_runtime.inputs.tokenizer import Tokenizer

WORDS = len(pieces())
TRICKY = [
    *(
        "",
        " ",
        "  ",
        "   ",
        "a",
        " a",
        "a ",
        "\n",
        " \n",
        "\n ",
        "\n\n\n",
        "\t",
        "\r\n",
        "a\n\nb",
        "</s>",
        "<s>",
        "<unk>",
    ),
    *(
        "<image>",
        "x<s>y",
        " </s> y",
        "<pad>",
        "▁",
        "▁▁a",
        "a▁b",
        "<0x41>",
        "<0x0A>x",
        "é",
        "e\u0301",
        "日é日é日é",
        "😀",
    ),
    *("👨‍👩‍👧", "\x00", "\u200b", "\ufeff", "\uffff", "\U0010ffff", "ﬁ½①", "a" * 50, " " * 33, "ab" * 20, "[INST] hi"),
    *("ababa" * 7, "baab", "aabaab", "the  the", "USER: ", "ASSISTANT:", "    x", "\u3000", "a\u00a0b", "İß", "שלום"),
]


def model(vocab_size: int = WORDS, image: int | None = None) -> Any:
    """What the tokenizer asks of a model's description."""
    token = vocab_size if image is None else image
    return SimpleNamespace(text=SimpleNamespace(vocab_size=vocab_size), tokens=SimpleNamespace(image=token))


def texts(count: int = 1500) -> list[str]:
    rng = random.Random(0)
    parts = [*(word.replace("▁", " ") for word in MERGED), *TRICKY, *"ab \n日é▁", "ASSIST", "zq", "#", "ö"]
    return TRICKY + ["".join(rng.choice(parts) for _ in range(rng.randint(1, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_model(folder / "tokenizer.model")
    return folder


@pytest.fixture(scope="module")
def original(base: Path) -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(base / "tokenizer.model"))


def bundled(base: Path, target: Path, described: Any = None) -> Tokenizer:
    write_tokenizer(base, described or model(), target)
    return Tokenizer(target)


@pytest.fixture(scope="module")
def tokenizer(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return bundled(base, tmp_path_factory.mktemp("bundle") / "tokenizer.json")


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text behind the space that LLaMA's tokenizer puts before it."""
    return tokenizer.encode([(f" {text}" if text else text, False)])


def test_ids_are_sentencepieces(tokenizer: Tokenizer, original: Any) -> None:
    for text in texts():
        assert ids_of(tokenizer, text) == original.encode(text), repr(text)


def test_random_vocabularies(tmp_path: Path) -> None:
    rng = random.Random(1)
    for _ in range(12):
        merged = list("ab▁")
        for _ in range(30):
            merged.append(rng.choice(merged) + rng.choice(merged))
        rng.shuffle(merged)  # a word may be ranked before its parts: then it is never reached
        words = pieces(list(dict.fromkeys(merged)))
        path = write_model(tmp_path / "tokenizer.model", words)
        tokenizer = bundled(tmp_path, tmp_path / "tokenizer.json", model(len(words)))
        original = sentencepiece.SentencePieceProcessor(model_file=str(path))
        for _ in range(100):
            text = "".join(rng.choice("ab c") for _ in range(rng.randint(1, 12)))
            assert ids_of(tokenizer, text) == original.encode(text), (merged, text)


def test_the_image_is_one_special_word(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode([("a<image>b", True)])[1] == WORDS
    assert tokenizer.encode([("<s> a</s>", True)])[0::2] == [1, 2]


def test_answers_decode_as_a_stream(tokenizer: Tokenizer, original: Any) -> None:
    for text in texts(500):
        ids = original.encode(text)
        stream = tokenizer.stream()
        streamed = "".join(stream.push(index) for index in ids)
        assert tokenizer.decode(ids) == original.decode(ids), repr(text)
        assert streamed == original.decode(ids), repr(text)


def test_characters_split_over_tokens_are_held_back(tokenizer: Tokenizer, original: Any) -> None:
    ids = original.encode("a😀b")
    stream = tokenizer.stream()
    pushed = [stream.push(index) for index in ids]
    assert len(ids) > 5
    assert [piece for piece in pushed if piece] == ["a", "😀", "b"]


def saved(tmp_path: Path, base: Path, form: str) -> Path:
    """A ``tokenizer.json`` as versions of transformers write it, in a folder of its own."""
    folder = tmp_path / form
    folder.mkdir()
    write_tokenizer(base, model(WORDS + 64, WORDS), folder / "tokenizer.json")
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"].append({**content["added_tokens"][-1], "id": WORDS + 1, "content": "<pad>"})
    content["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    if form == "prepend":
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        content["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
        del content["model"]["vocab"]["<image>"]
    else:
        scheme = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
        content["normalizer"], content["pre_tokenizer"] = None, scheme
        content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("form", ["prepend", "metaspace"])
def test_saved_json_gives_the_same_ids(tmp_path: Path, base: Path, original: Any, form: str) -> None:
    folder = saved(tmp_path, base, form)
    tokenizer = bundled(folder, tmp_path / "bundle.json", model(WORDS + 64, WORDS))
    for text in texts(300):
        assert ids_of(tokenizer, text) == original.encode(text), repr(text)
    assert tokenizer.encode([("<image><pad>", True)]) == [WORDS, WORDS + 1]


def test_the_originals_file_comes_first(tmp_path: Path, base: Path) -> None:
    folder = saved(tmp_path, base, "prepend")
    assert tokenizer_file(folder) == folder / "tokenizer.json"
    write_model(folder / "tokenizer.model")
    assert tokenizer_file(folder) == folder / "tokenizer.model"
    assert tokenizer_file(tmp_path) == tmp_path / "tokenizer.model"


def test_missing_files_are_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.model is missing.*--no-tokenizer"):
        read_vocabulary(tmp_path, model())


def test_more_words_than_the_model_are_refused(base: Path) -> None:
    read_vocabulary(base, model(WORDS))
    with pytest.raises(CheckpointError, match=f"has {WORDS} words, the model only {WORDS - 1}"):
        read_vocabulary(base, model(WORDS - 1, WORDS))


def test_image_tokens_that_clash_are_refused(tmp_path: Path, base: Path) -> None:
    with pytest.raises(CheckpointError, match=r"image token is 300, which is the word"):
        read_vocabulary(base, model(WORDS, 300))
    folder = saved(tmp_path, base, "prepend")
    with pytest.raises(CheckpointError, match=f"'<image>' is token {WORDS}, the model's image token is {WORDS + 2};"):
        read_vocabulary(folder, model(WORDS + 64, WORDS + 2))
    with pytest.raises(CheckpointError, match=f"image token is {WORDS + 1}, which is the word '<pad>'"):
        read_vocabulary(folder, model(WORDS + 64, WORDS + 1))


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"trainer": ((3, 1), (35, 1))}, "other than BPE"),
        ({"trainer": ((3, 2),)}, "byte fallback"),
        ({"trainer": ((3, 2), (35, 1), (24, 1))}, "treat_whitespace_as_suffix"),
        ({"normalizer": ((2, b"map"), (4, 0))}, "replaces characters"),
        ({"normalizer": ((3, 0), (4, 0))}, "add_dummy_prefix"),
        ({"normalizer": ()}, "remove_extra_whitespaces"),
        ({"normalizer": ((4, 0), (5, 0))}, "escape_whitespaces"),
        ({"words": [*pieces(), ("<fig>", 0.0, USER_DEFINED)]}, "user-defined"),
        ({"words": [*pieces(), ("zz", -99.0, UNUSED)]}, "unused"),
        ({"words": [piece for piece in pieces() if piece[0] != "<0x41>"]}, "word for each byte"),
        ({"words": [("<0x41>" if word == "<0x42>" else word, *rest) for word, *rest in pieces()]}, "there twice"),
        ({"words": [*pieces(), ("z" * 257, -99.0, NORMAL)]}, "more than 256 characters"),
        ({"words": pieces()[1:]}, "what is unknown"),
    ],
)
def test_other_models_are_refused_by_name(tmp_path: Path, fields: dict[str, Any], what: str) -> None:
    write_model(tmp_path / "tokenizer.model", **fields)
    with pytest.raises((UnsupportedError, CheckpointError), match=what):
        read_vocabulary(tmp_path, model(WORDS + 8))


@pytest.mark.parametrize(
    "words",
    [
        [*pieces(), ("", -99.0, NORMAL)],
        [*pieces(), ("zz", float("nan"), NORMAL)],
        [*pieces(), pieces()[-1]],
        [piece for piece in pieces() if piece[0] != "</s>"],
        [piece for piece in pieces() if piece[2] == BYTE],
        [],
    ],
)
def test_words_that_make_no_vocabulary_are_refused(tmp_path: Path, words: list[tuple[str, float, int]]) -> None:
    write_model(tmp_path / "tokenizer.model", words)
    with pytest.raises(ExportError, match=r"tokenizer\.model"):
        read_vocabulary(tmp_path, model(WORDS + 8))


def test_damaged_files_end_in_one_kind_of_error(tmp_path: Path, base: Path) -> None:
    rng, whole = random.Random(2), (base / "tokenizer.model").read_bytes()
    path = tmp_path / "tokenizer.model"
    refused = []
    for round in range(300):
        data = bytearray(whole)
        for _ in range(3):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.randrange(len(data))] if round % 2 else data)
        try:
            write_tokenizer(tmp_path, model(), tmp_path / "tokenizer.json")
        except ExportError as error:
            refused.append(str(error))
    assert len(refused) > 200
    assert all(message.startswith(str(path)) for message in refused)


def test_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.model").open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(UnsupportedError, match="more than 64 MiB"):
        read_vocabulary(tmp_path, model())


def test_protobuf_is_asked_for(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message_class.cache_clear()
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(UnsupportedError, match=r"glimpse-edge\[export\]"):
        read_vocabulary(base, model())


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda content: content.pop("model"), "no 'model'"),
        (lambda content: content["model"].update(type="Unigram"), "other than BPE"),
        (lambda content: content["model"].update(byte_fallback=False), "byte fallback"),
        (lambda content: content["model"].update(dropout=0.1), "dropout"),
        (lambda content: content["model"].update(unk_token=None), "merges in a wrong order"),
        (lambda content: content["model"].update(unk_token="<none>"), "no word '<none>'"),
        (lambda content: content["model"].update(merges=[["a"]]), "pairs of words"),
        (lambda content: content["model"].update(merges=[["qq", "q"]]), "cannot be read"),
        (lambda content: content["model"]["vocab"].update(a=-1), "words with their ids"),
        (lambda content: content["model"]["vocab"].update(a=7), "one id to two words"),
        (lambda content: content["added_tokens"].append({"content": "a", "id": 9}), "two ids to 'a'"),
        (lambda content: content["added_tokens"].append(["a"]), "no 'content'"),
        (lambda content: content["added_tokens"].pop(1), "no special word '<s>'"),
    ],
)
def test_damaged_json_is_refused(tmp_path: Path, base: Path, change: Any, what: str) -> None:
    folder = saved(tmp_path, base, "metaspace")
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ExportError, match=what):
        write_tokenizer(folder, model(WORDS + 64, WORDS), tmp_path / "bundle.json")
