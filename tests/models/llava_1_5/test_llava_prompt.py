"""The prompt of LLaVA-1.5, id for id as the original makes it from the text of a conversation."""

import json
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("google.protobuf")
pytest.importorskip("sentencepiece")

import sentencepiece
from sentencepiece_files import pieces, write_model
from test_llava_tokenizer import TRICKY, model, saved

from glimpse_export.errors import CertificateError, CheckpointError, UnsupportedError
from glimpse_models.llava_1_5.heavy.reference_prompt import prompt_ids
from glimpse_models.llava_1_5.heavy.text.prompt import read_prompt
from glimpse_models.llava_1_5.heavy.text.tokenizer import write_tokenizer
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.inputs.prompt import build_prompt
from glimpse_runtime.inputs.tokenizer import Tokenizer
from glimpse_runtime.session.reading import Reading

IMAGE = len(pieces())
GRID = Grid(2, 3, 1)
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
SPELLED = re.compile("<s>|</s>|<unk>|<image>")


class Original:
    """The original's way from a conversation to ids, on sentencepiece: its text, cut where special words stand."""

    def __init__(self, folder: Path, legacy: bool) -> None:
        spaced = write_model(folder / "spaced.model")
        bare = write_model(folder / "bare.model", normalizer=((3, 0), (4, 0), (5, 1)))
        self._legacy = legacy
        self._spaced, self._bare = (sentencepiece.SentencePieceProcessor(model_file=str(p)) for p in (spaced, bare))

    def conversation(self, texts: Sequence[str], images: int, system: str) -> str:
        text = f"{system} "
        for index, message in enumerate(texts):
            if index % 2:
                text += f"ASSISTANT: {message}</s>"
            else:
                text += f"USER: {'' if index else '<image>' + chr(10)}{message} " if images else f"USER: {message} "
        return text + "ASSISTANT:"

    def ids(self, prompt: str) -> list[int]:
        ids = [1]
        for index, part in enumerate(prompt.split("<image>")):
            ids += [IMAGE] * (GRID.visual_tokens if index else 0)
            first, *later = part.split("</s>")
            ids += self._spaced.encode(first)
            for text in later:
                ids += [2, *(self._spaced if self._legacy else self._bare).encode(text)]
        return ids


class Made:
    """A bundle's prompt."""

    def __init__(self, base: Path, target: Path, described: Any) -> None:
        self._spec = read_prompt(base, described)
        write_tokenizer(base, described, target)
        self._tokenizer = Tokenizer(target)

    def ids(
        self, question: str, images: int = 1, system: str | None = None, turns: Sequence[tuple[str, str]] = ()
    ) -> list[int]:
        family = SimpleNamespace(images_per_prompt=None, positions=lambda ids, grids, image: np.arange(len(ids))[None])
        tokens = SimpleNamespace(image=IMAGE)
        return build_prompt(
            self._tokenizer, self._spec, tokens, family, question, [GRID] * images, system, turns
        ).ids.tolist()


def base_folder(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(params=[False, True], ids=["plain", "legacy"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Made, Original]:
    config = {} if request.param else {"legacy": False}
    base = base_folder(tmp_path / "base", **config)
    return Made(base, tmp_path / "tokenizer.json", model(IMAGE)), Original(tmp_path, request.param)


def conversations(count: int) -> list[tuple[list[str], int, str | None]]:
    """Texts by turns, images, system; no text spells a special word, and no answer is empty."""
    rng = random.Random(5)
    plain = [text for text in TRICKY if not SPELLED.search(text)]
    some = []
    for number in range(count):
        texts = ["".join(rng.choice(plain) for _ in range(rng.randint(1, 3))) for _ in range(1 + 2 * (number % 3))]
        texts = [text if text.strip() else f"{text}a" for text in texts]
        some.append((texts, number % 4 and 1, (None, "Be brief. ", "")[number % 5 % 3]))
    return some


def test_conversations_have_the_originals_ids(both: tuple[Made, Original]) -> None:
    made, original = both
    for texts, images, system in conversations(400):
        turns = list(zip(texts[:-1:2], texts[1::2], strict=True))
        want = original.ids(original.conversation(texts, images, SYSTEM if system is None else system))
        assert made.ids(texts[-1], images, system, turns) == want, (texts, images, system)


def test_choices_have_the_ids_of_the_originals_answers(both: tuple[Made, Original]) -> None:
    """The blank behind ``ASSISTANT:`` belongs to the answer, whose first word has other ids without it."""
    made, original = both
    choices = ["ab", "a", "aab b", "Yes", " a"]
    manifest: Any = SimpleNamespace(prompt=made._spec, tokens=SimpleNamespace(eos=(2,)))
    request: Any = SimpleNamespace(choices={choice: choice for choice in choices})
    tree = Reading(manifest, made._tokenizer, manifest).choices(request)
    prompt = original.conversation(["a"], 0, SYSTEM)
    start = original.ids(prompt)
    assert tree is not None
    for choice, ids in zip(choices, tree._ids, strict=True):
        whole = original.ids(f"{prompt} {choice}")
        assert whole[: len(start)] == start
        assert list(ids) == whole[len(start) :], choice
        assert made._tokenizer.decode(ids) == choice


def test_every_tricky_question(both: tuple[Made, Original]) -> None:
    made, original = both
    for text in TRICKY:
        if text.strip() and not SPELLED.search(text):
            assert made.ids(text) == original.ids(original.conversation([text], 1, SYSTEM)), repr(text)


def test_spaces_stand_where_the_original_has_them(tmp_path: Path) -> None:
    made = Made(base_folder(tmp_path, legacy=False), tmp_path / "bundle.json", model(IMAGE))
    space, newline, colon = (next(i for i, p in enumerate(pieces()) if p[0] == w) for w in ("▁", "▁\n", ":"))
    ids = made.ids("a")
    at = ids.index(IMAGE)
    assert ids[at - 2 : at] == [colon, space]
    assert ids[at + GRID.visual_tokens] == newline
    assert ids.count(1) == 1
    assert ids[0] == 1


def test_special_words_spelled_by_a_user_stay_text(both: tuple[Made, Original]) -> None:
    made, _ = both
    for text in TRICKY:
        ids = made.ids(f"a{text}b", turns=[(text or "a", f"{text}.")], system=f"S{text}")
        assert ids.count(IMAGE) == GRID.visual_tokens, repr(text)
        assert [index for index in ids if index < 3] == [1, 2], repr(text)


@pytest.mark.parametrize("form", ["model", "prepend", "metaspace"])
def test_the_reference_gives_the_same_ids(tmp_path: Path, form: str) -> None:
    base = base_folder(tmp_path / "base", legacy=False)
    described = model(IMAGE)
    if form != "model":
        base, described = saved(tmp_path, base, form), model(IMAGE + 64, IMAGE)
    made = Made(base, tmp_path / "bundle.json", described)
    for text in filter(str.strip, TRICKY):
        for images in (1, 0, 2):
            want = prompt_ids(base, text, [GRID.visual_tokens] * images, IMAGE)
            assert made.ids(text, images) == want, (text, images)


def test_the_reference_asks_for_sentencepiece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(CertificateError, match="needs sentencepiece"):
        prompt_ids(base_folder(tmp_path), "a", [6], IMAGE)


@pytest.mark.parametrize(
    ("config", "legacy"), [({}, True), ({"legacy": None}, True), ({"legacy": True}, True), ({"legacy": False}, False)]
)
def test_legacy_is_what_the_original_takes_it_for(tmp_path: Path, config: dict[str, Any], legacy: bool) -> None:
    spec = read_prompt(base_folder(tmp_path, **config), model(IMAGE))
    assert spec.assistant_close == ("</s> " if legacy else "</s>")
    assert spec.default_system == SYSTEM
    assert spec.answer_open == " "


def test_without_a_configuration_it_is_legacy(tmp_path: Path) -> None:
    (base_folder(tmp_path) / "tokenizer_config.json").unlink()
    assert read_prompt(tmp_path, model(IMAGE)).assistant_close == "</s> "


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"add_bos_token": False}, "add_bos_token false"),
        ({"add_eos_token": True}, "add_eos_token true"),
        ({"legacy": 1}, "'legacy' must be of type bool"),
        ({"added_tokens_decoder": {"x": {"content": "<fig>"}}}, "words by their ids"),
        ({"added_tokens_decoder": {"5": ["<fig>"]}}, "words by their ids"),
        ({"added_tokens_decoder": {str(IMAGE + 1): {"content": "<fig>"}}}, "adds '<fig>'"),
        ({"added_tokens_decoder": {str(IMAGE): {"content": "<fig>"}}}, "not of one model"),
        ({"added_tokens_decoder": {"7": {"content": "<image>"}}}, "not of one model"),
    ],
)
def test_settings_the_original_does_not_have_are_refused(tmp_path: Path, config: dict[str, Any], what: str) -> None:
    with pytest.raises((UnsupportedError, CheckpointError), match=what):
        read_prompt(base_folder(tmp_path, **config), model(IMAGE))


def test_published_lists_of_added_words_are_taken(tmp_path: Path) -> None:
    special = {"0": {"content": "<unk>"}, "1": {"content": "<s>"}, "2": {"content": "</s>"}}
    later = {str(IMAGE): {"content": "<image>"}, str(IMAGE + 1): {"content": "<pad>"}}
    base = base_folder(tmp_path, added_tokens_decoder={**special, **later}, add_bos_token=True, add_eos_token=False)
    (base / "added_tokens.json").write_text(json.dumps({"<image>": IMAGE, "<pad>": IMAGE + 1}))
    read_prompt(base, model(IMAGE + 64, IMAGE))
    (base / "added_tokens.json").write_text(json.dumps({"<image>": [IMAGE]}))
    with pytest.raises(CheckpointError, match="not of one model"):
        read_prompt(base, model(IMAGE + 64, IMAGE))
