"""Cutting chat templates: pieces that compose to what the template renders, or a refusal."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2")

from glimpse_export.errors import CheckpointError, UnsupportedError
from glimpse_export.source.template import compose, cut_template, read_template

QWEN = (
    "{% set image_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}Picture {{ image_count.value }}: "
    "{% endif %}<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% for c in m['content'] %}{% if loop.first %}[{{ m['role'] }}]{% endif %}"
    "{% if c['type'] == 'image' %}<img>{% else %}{{ c['text'] }}{% endif %}{% endfor %}[/]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def say(role: str, *content: str) -> dict:
    return {
        "role": role,
        "content": [{"type": "image"} if part == "IMAGE" else {"type": "text", "text": part} for part in content],
    }


def test_qwen_template() -> None:
    pieces = cut_template(QWEN, "here")
    assert pieces.default_system == "You are a helpful assistant."
    assert pieces.image == "<|vision_start|><|image_pad|><|vision_end|>"
    assert compose(pieces, [say("user", "IMAGE", "Why?")]) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>Why?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_template_without_a_system_message() -> None:
    pieces = cut_template(NO_SYSTEM, "here")
    assert pieces.default_system is None
    turns = [say("system", "s"), say("user", "IMAGE", "IMAGE", "q"), say("assistant", "a"), say("user", "r")]
    assert compose(pieces, turns) == "[system]s[/][user]<img><img>q[/][assistant]a[/][user]r[/][assistant]"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages | length }}",
        QWEN.replace("{{ content['text'] }}", "{{ content['text'] | upper }}"),
        QWEN.replace("{{ content['text'] }}", "{{ content['text'] | trim }}"),
        "{% for m in messages %}",
        "{{ raise_exception('no') }}",
        "{{ messages[0].nothing.at_all }}",
        "{% for m in messages %}{{ '<' + m['content'] }}{% endfor %}",
        "{{ 1 / 0 }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{{ messages | sort }}",
    ],
)
def test_templates_that_do_not_compose_are_refused(source: str) -> None:
    with pytest.raises(UnsupportedError, match="here: the chat template"):
        cut_template(source, "here")


def test_what_cannot_be_rendered_says_why() -> None:
    with pytest.raises(UnsupportedError, match="here: the chat template cannot be rendered: TypeError: "):
        cut_template("{{ '<' + messages[0]['content'] }}", "here")


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.json"])
def test_the_template_called_default_is_taken(tmp_path: Path, name: str) -> None:
    tool, default = {"name": "tool_use", "template": "t"}, {"name": "default", "template": QWEN}
    write(tmp_path / name, {"chat_template": [tool, default]})
    assert read_template(tmp_path) == QWEN


@pytest.mark.parametrize("templates", [[], [{"name": "tool_use", "template": "t"}], ["default"], [{"name": "default"}]])
def test_a_list_without_a_default_is_refused(tmp_path: Path, templates: list[Any]) -> None:
    write(tmp_path / "tokenizer_config.json", {"chat_template": templates})
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json lists chat templates and none is called"):
        read_template(tmp_path)


def test_a_template_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe{{")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja cannot be read"):
        read_template(tmp_path)


def write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data))


SPACED = (
    "{% for m in messages %}{{ m['role'] | upper + ': ' }}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<img>\n{% else %}{{ c['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def test_earlier_answers_may_start_otherwise_than_the_next_one() -> None:
    pieces = cut_template(SPACED, "here")
    assert (pieces.assistant_open, pieces.answer_open) == ("ASSISTANT:", " ")
    turns = [say("user", "IMAGE", "q"), say("assistant", "a"), say("user", "r")]
    assert compose(pieces, turns) == "USER: <img>\nq ASSISTANT: a USER: r ASSISTANT:"


def test_answers_that_are_opened_in_two_ways_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="fixed pieces"):
        cut_template(
            SPACED.replace("{% if add_generation_prompt %}ASSISTANT", "{% if add_generation_prompt %}BOT"), "here"
        )
