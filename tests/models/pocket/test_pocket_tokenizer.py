"""The pocket tokenizer: round trips, single tokens for characters, and the chat frame."""

import jinja2
import pytest

from glimpse_models.pocket.model.config import PocketConfig, special_id
from glimpse_models.pocket.model.tokenizer import (
    CHAT_TEMPLATE,
    IMAGE_PAD,
    SPECIAL_TOKENS,
    build_tokenizer,
    prompt_parts,
    save_tokenizer,
)
from glimpse_models.pocket.scenes.questions import every_question


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def test_building_is_deterministic(tokenizer):
    assert build_tokenizer().to_str() == tokenizer.to_str()


@pytest.mark.parametrize("text", ["What does the sign say?", "ZEBRA 507", "naïve 図 🙂\n\ttab", ""])
def test_any_text_survives_a_round_trip(tokenizer, text):
    assert tokenizer.decode(ids(tokenizer, text)) == text


def test_characters_of_answers_are_single_tokens(tokenizer):
    assert len(ids(tokenizer, "WXYZ")) == 4
    assert len(ids(tokenizer, "0123456789")) == 10


def test_special_ids_are_those_of_the_config(tokenizer):
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [special_id(token) for token in SPECIAL_TOKENS]
    assert tokenizer.get_vocab_size() <= PocketConfig().vocab_size


def test_chat_template_gives_the_training_prompt():
    content = [{"type": "image"}, {"type": "text", "text": "Read the sign."}]
    rendered = jinja2.Template(CHAT_TEMPLATE, keep_trailing_newline=True).render(
        messages=[{"role": "user", "content": content}], add_generation_prompt=True
    )
    before, after = prompt_parts("Read the sign.")
    assert rendered == before + IMAGE_PAD + after


def test_every_question_tokenises_alone_as_in_the_prompt(tokenizer):
    question = next(iter(every_question()))
    before, after = prompt_parts(question)
    assert ids(tokenizer, before) + ids(tokenizer, IMAGE_PAD) + ids(tokenizer, after) == ids(
        tokenizer, before + IMAGE_PAD + after
    )


def test_saved_tokenizer_is_read_by_transformers(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    save_tokenizer(tokenizer, tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "".join(prompt_parts("How many stars are there?"))
    assert loaded(text)["input_ids"] == ids(tokenizer, text)
    assert loaded.eos_token == "<|im_end|>"
