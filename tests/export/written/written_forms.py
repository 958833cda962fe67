"""Checkpoints of pocket as transformers and the trainers built on it write them.

The small files of ``recorded/`` were written by the real versions of transformers, from pocket's own configuration and
tokenizer (``loaded``), and from one of which as many fields as possible equal the classes' defaults (``defaults``).
What trainers make of these is written here by hand, after their source.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")
pytest.importorskip("transformers")

import transformers
from support.files import edit_json
from support.places import TESTS

from glimpse_export import ExportOptions
from glimpse_models.pocket import facts

RECORDED = TESTS / "export" / "written" / "recorded"
BASE = Path(facts.__file__).parent / "checkpoint" / "base"
ADAPTER = BASE.parent / "adapter"
VERSIONS = tuple(sorted(path.name for path in RECORDED.iterdir()))
TEMPLATE = "chat_template.jinja"
ACT = 442
"""The id of the word that some trainers add, the first that pocket's tokenizer has not."""

_ASSISTANT = "{% if message['role'] == 'assistant' %}"
_OPEN = "<|im_start|>{{ message['role'] }}\n"
_SAID = (
    _OPEN + "{% generation %}{% for content in message['content'] %}{% if 'text' in content %}{{ content['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endgeneration %}"
)
_ASKED = (
    _OPEN + "{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n"
)
TRAINING = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    f"{_ASSISTANT}{_SAID}{{% else %}}{_ASKED}{{% endif %}}{{% endfor %}}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A template as TRL's ``get_training_chat_template`` gives it: answers within the ``generation`` tag."""

TEXT_ALONE = (
    "{% set system_message = 'You are a helpful assistant.' %}{% if messages[0]['role'] == 'system' %}"
    "{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}"
    "{% set loop_messages = messages %}{% endif %}{% if system_message is defined %}"
    "{{ '<|im_start|>system\n' + system_message + '<|im_end|>\n' }}{% endif %}{% for message in loop_messages %}"
    "{% set content = message['content'] %}{% if message['role'] == 'user' %}"
    "{{ '<|im_start|>user\n' + content + '<|im_end|>\n<|im_start|>assistant\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ content + '<|im_end|>' + '\n' }}{% endif %}{% endfor %}"
)
"""What LLaMA-Factory writes with ``replace_jinja_template`` (``Template._get_jinja_template``)."""


def write(folder: Path, version: str) -> Path:
    """Writes the folder that a version's ``save_pretrained`` of model, tokenizer and processor leaves."""
    folder.mkdir(parents=True)
    os.link(BASE / "model.safetensors", folder / "model.safetensors")
    for path in (RECORDED / version / "loaded").iterdir():
        shutil.copy(path, folder / path.name)
    shutil.copy(BASE / "tokenizer.json", folder / "tokenizer.json")
    template = (BASE / TEMPLATE).read_text()
    if version == "transformers-4.49":  # the processor's, before there was a file of its own
        put(folder / "chat_template.json", {"chat_template": template})
    else:
        (folder / TEMPLATE).write_text(template)
    return folder


def trl(folder: Path) -> None:
    """``SFTTrainer`` with ``assistant_only_loss``: the training template is saved with the tokenizer."""
    (folder / TEMPLATE).write_text(TRAINING)


def peft(folder: Path) -> None:
    """``merge_and_unload().save_pretrained()``: each part of the configuration says its type."""
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["dtype"] = config["text_config"]["dtype"] = config["dtype"]
    put(folder / "config.json", config)


def unsloth(folder: Path) -> None:
    """``save_pretrained_merged``: its version in config.json."""
    edit_json(folder / "config.json", unsloth_fixed=True, unsloth_version="2026.10.9")
    edit_json(folder / "tokenizer_config.json", padding_side="left", chat_template=(folder / TEMPLATE).read_text())


def llama_factory(folder: Path) -> None:
    """``llamafactory-cli export`` with ``add_tokens``: the word is listed, old files beside the new ones."""
    config = json.loads((RECORDED / "transformers-4.52" / "loaded" / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"][str(ACT)] = {"content": "<act>", "normalized": True, "special": False}
    put(folder / "tokenizer_config.json", {**config, "padding_side": "left"})


def ms_swift(folder: Path) -> None:
    """``save_checkpoint``: the base's preprocessor_config.json is copied beside what the processor has saved."""
    shutil.copy(BASE / "preprocessor_config.json", folder / "preprocessor_config.json")
    put(folder / "args.json", {"model": "pocket", "torch_dtype": "float16"})


Edit = Callable[[Path], None]
FORMS: dict[str, tuple[str, Edit | None]] = {
    **{version: (version, None) for version in VERSIONS},
    "peft, merged": ("transformers-5.24", peft),
    "TRL": ("transformers-5.24", trl),
    "unsloth": ("transformers-5.24", unsloth),
    "LLaMA-Factory": ("transformers-5.24", llama_factory),
    "ms-swift": ("transformers-5.24", ms_swift),
}


def form(folder: Path, name: str) -> Path:
    """Writes a folder in one of the forms."""
    version, edit = FORMS[name]
    write(folder, version)
    if edit is not None:
        edit(folder)
    return folder


def put(path: Path, data: dict[str, Any]) -> None:
    """Writes a JSON object."""
    path.write_text(json.dumps(data, indent=2))


CONVERSATIONS = [
    [("user", "IMAGE", "What is it?")],
    [("system", "Be brief."), ("user", "IMAGE", "IMAGE", "Which?\n"), ("assistant", "One."), ("user", "Why, {{ x }}?")],
]

TEXTS = ["Hello  world", "1234 <act>now<act>", "naïve 東京 …\n\n", "don't", " <act> "]


def messages(turns: list[tuple[str, ...]]) -> list[dict[str, Any]]:
    return [
        {
            "role": role,
            "content": [{"type": "image"} if part == "IMAGE" else {"type": "text", "text": part} for part in parts],
        }
        for role, *parts in turns
    ]


def options(base: Path, **changes: Any) -> ExportOptions:
    return ExportOptions(str(base), str(ADAPTER), **{"certify": "off", **changes})


def rendered(folder: Path, turns: list[tuple[str, ...]], template: str | None = None) -> str:
    """What transformers makes of a conversation with its processor's template."""
    chosen = template or transformers.ProcessorMixin.get_processor_dict(folder)[0]["chat_template"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    said = messages(turns)
    text: str = tokenizer.apply_chat_template(said, chat_template=chosen, tokenize=False, add_generation_prompt=True)
    return text
