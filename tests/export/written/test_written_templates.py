"""Chat templates in every place and with every extension, as transformers renders them."""

from pathlib import Path

import pytest
from support.files import edit_json
from written_forms import CONVERSATIONS, TEMPLATE, TEXT_ALONE, TRAINING, messages, options, put, rendered, write

from glimpse_export import CheckpointError, UnsupportedError, plan
from glimpse_export.source.template import compose

TEMPLATES = {
    "generation": TRAINING,
    "loop controls": TRAINING.replace(
        "{% for message in messages %}", "{% for message in messages %}{% if loop.index > 9 %}{% break %}{% endif %}", 1
    ),
    "date": TRAINING.replace("You are a helpful assistant.", "It is {{ strftime_now('%Y') }}.", 1),
    "json": TRAINING.replace("You are a helpful assistant.", "{{ {'<é>': [1]} | tojson(indent=2) }}", 1),
    "tokens": TRAINING.replace("<|im_end|>\n{% endif %}", "{{ eos_token }}\n{% endif %}", 1),
}


@pytest.mark.parametrize("name", ["generation", "loop controls", "date", "json", "tokens"])
def test_templates_are_rendered_as_transformers_renders_them(tmp_path: Path, name: str) -> None:
    base = write(tmp_path / "base", "transformers-5.24")
    (base / TEMPLATE).write_text(TEMPLATES[name])
    pieces = plan(options(base)).prompt
    assert pieces is not None
    for turns in CONVERSATIONS:
        assert compose(pieces, messages(turns)) == rendered(base, turns)


@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.json", "list", "additional"])
def test_every_place_of_a_template(tmp_path: Path, place: str) -> None:
    base = write(tmp_path / "base", "transformers-5.24")
    (base / TEMPLATE).unlink()
    if place == "list":
        named = [{"name": "default", "template": TRAINING}, {"name": "tool_use", "template": "t"}]
        edit_json(base / "tokenizer_config.json", chat_template=named)
    elif place == "additional":
        (base / "additional_chat_templates").mkdir()
        (base / "additional_chat_templates" / "default.jinja").write_text(TRAINING)
        (base / "additional_chat_templates" / "tool_use.jinja").write_text("t")
    elif place == "chat_template.json":
        put(base / place, {"chat_template": TRAINING})
    else:
        edit_json(base / place, chat_template=TRAINING)
    pieces = plan(options(base)).prompt
    assert pieces is not None
    for turns in CONVERSATIONS:
        assert compose(pieces, messages(turns)) == rendered(base, turns, TRAINING)


def test_templates_that_contradict_each_other(tmp_path: Path) -> None:
    base = write(tmp_path / "base", "transformers-5.24")
    put(base / "chat_template.json", {"chat_template": TRAINING})
    with pytest.raises(
        CheckpointError, match=r"different chat templates in chat_template\.json and chat_template\.jinja"
    ):
        plan(options(base))
    put(base / "chat_template.json", {"chat_template": (base / TEMPLATE).read_text()})
    plan(options(base))
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tool_use.jinja").write_text("t")
    with pytest.raises(CheckpointError, match=r"chat_template\.json and templates in additional_chat_templates"):
        plan(options(base))
    for name in ("chat_template.json", TEMPLATE):
        (base / name).unlink()
    with pytest.raises(CheckpointError, match="has chat templates and none is called 'default'"):
        plan(options(base))


@pytest.mark.parametrize(
    "template",
    [
        TEXT_ALONE,
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}",
        TRAINING.replace("<|vision_start|><|image_pad|><|vision_end|>", ""),
    ],
)
def test_a_template_of_text_alone_is_refused_by_a_dry_run(tmp_path: Path, template: str) -> None:
    base = write(tmp_path / "base", "transformers-5.24")
    (base / TEMPLATE).write_text(template)
    with pytest.raises(UnsupportedError, match="this template takes no images; copy the base's chat_template"):
        plan(options(base))
    plan(options(base, tokenizer=False))
