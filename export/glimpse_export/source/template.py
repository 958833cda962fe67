"""Cuts a model's chat template (Jinja) at its variable parts, so the runtime needs no template engine.

The template is rendered with marks in place of texts, the fixed pieces between them are taken out, and the pieces
are proved: conversations put together from them must equal what the template itself renders.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glimpse_export.errors import CheckpointError, UnsupportedError
from glimpse_export.model.fields import read_json
from glimpse_export.source.rendering import Message, Renderer
from glimpse_runtime.bundle.manifest import PromptSpec
from glimpse_runtime.files.reading import read_small_text

_SYSTEM, _USER, _ANSWER, _AGAIN = "\x01system\x01", "\x01user\x01", "\x01answer\x01", "\x01again\x01"
_IMAGE = {"type": "image"}
_TEMPLATE, _OLD, _PROCESSOR = "chat_template.jinja", "chat_template.json", "processor_config.json"
_TOKENIZER = "tokenizer_config.json"
_MORE = "additional_chat_templates"
_KEY, _DEFAULT = "chat_template", "default"
_TAKES_NO_IMAGES = "this template takes no images; copy the base's chat_template"


def read_template(folder: Path) -> str:
    """Returns the chat template that transformers' processor of a checkpoint folder takes.

    That is the processor's own, and where it has none, the tokenizer's.

    Raises:
        CheckpointError: it has none, it cannot be read, or versions of transformers differ in which one they take.
    """
    found = {name: text for name in (_PROCESSOR, _OLD) if (text := _in_json(folder / name)) is not None}
    if (folder / _TEMPLATE).is_file():
        found[_TEMPLATE] = _read_text(folder / _TEMPLATE)
    named = sorted(path for path in (folder / _MORE).glob("*.jinja") if path.is_file())
    if named and _OLD in found:
        raise CheckpointError(
            f"{folder} has {_OLD} and templates in {_MORE}, which transformers does not load; write the former's text "
            f"into {_TEMPLATE} and delete it"
        )
    found |= {f"{_MORE}/{path.name}": _read_text(path) for path in named if path.stem == _DEFAULT}
    if len(set(found.values())) > 1:
        raise CheckpointError(
            f"{folder} has different chat templates in {' and '.join(found)}, and which one counts depends on the "
            "version of transformers; delete those that are not meant"
        )
    text = next(iter(found.values()), None) or _in_json(folder / _TOKENIZER)
    if text is not None:
        return text
    if named:
        raise CheckpointError(
            f"{folder / _MORE} has chat templates and none is called {_DEFAULT!r}; write the one that is meant into "
            f"{_TEMPLATE}"
        )
    raise CheckpointError(
        f"{folder} has no chat template ({_TEMPLATE} or .json); the checkpoint is incomplete: copy the base's "
        "chat_template"
    )


def _read_text(path: Path) -> str:
    try:
        return read_small_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); download the checkpoint again") from None


def _in_json(path: Path) -> str | None:
    template = read_json(path, missing_ok=True).get(_KEY)
    if isinstance(template, list):
        return _default_template(template, path)
    return template if isinstance(template, str) else None


def _default_template(named: list[Any], path: Path) -> str:
    """Takes the template called ``default`` from a list of named ones, as transformers does."""
    for entry in named:
        if isinstance(entry, dict) and entry.get("name") == "default" and isinstance(entry.get("template"), str):
            return str(entry["template"])
    raise CheckpointError(f"{path} lists chat templates and none is called 'default'; name one so")


def cut_template(source: str, where: str, variables: Mapping[str, str] | None = None) -> PromptSpec:
    """Returns the pieces of a chat template.

    Args:
        source: the Jinja text.
        where: what to call it in errors.
        variables: what it sees beside the messages: the tokenizer's special tokens by their names.

    Raises:
        UnsupportedError: the template does not compose from such pieces, or takes no images.
    """
    render = Renderer(source, where, variables)
    try:
        pieces = _cut(render)
    except (ValueError, UnsupportedError) as error:
        if _is_for_text_alone(render):
            why = (
                error if isinstance(error, UnsupportedError) else f"{where}: the chat template writes lists as they are"
            )
            raise UnsupportedError(f"{why}; {_TAKES_NO_IMAGES}") from None
        if isinstance(error, UnsupportedError):
            raise
        raise UnsupportedError(f"{where}: the chat template is not made of fixed pieces around the messages") from None
    if not pieces.image:
        raise UnsupportedError(f"{where}: the chat template leaves images out; {_TAKES_NO_IMAGES}")
    for messages in _probes():
        if compose(pieces, messages) != render(messages):
            raise UnsupportedError(f"{where}: the chat template changes with the content of the messages")
    return pieces


def _is_for_text_alone(render: Renderer) -> bool:
    """Whether it takes a message's content as a text, and makes nothing of a list with images."""
    try:
        if render([{"role": "user", "content": _USER}]).count(_USER) != 1:
            return False
    except UnsupportedError:
        return False
    try:
        return "'type': 'text'" in render([_say("user", _USER)])
    except UnsupportedError:
        return True


def compose(pieces: PromptSpec, messages: Sequence[Message]) -> str:
    """Puts a conversation together from pieces, ending where the next answer starts."""
    text = ""
    if messages[0]["role"] != "system" and pieces.default_system is not None:
        text += pieces.system_open + pieces.default_system + pieces.system_close
    around = {
        "system": (pieces.system_open, pieces.system_close),
        "user": (pieces.user_open, pieces.user_close),
        "assistant": (pieces.assistant_open + pieces.answer_open, pieces.assistant_close),
    }
    for message in messages:
        start, end = around[message["role"]]
        parts = [pieces.image if part["type"] == "image" else part["text"] for part in message["content"]]
        text += start + "".join(parts) + end
    return text + pieces.assistant_open


def _cut(render: Renderer) -> PromptSpec:
    one = render([_say("user", _USER)])
    before_user, after_user = _around(one, _USER)
    closed = render([_say("user", _USER)], open_answer=False)
    _, user_close = _around(closed, _USER)
    assistant_open = after_user[len(user_close) :]
    if not after_user.startswith(user_close) or not assistant_open:
        raise ValueError
    turns = render([_say("user", _USER), _say("assistant", _ANSWER), _say("user", _AGAIN)])
    before_answer, after_answer = _around(turns, _ANSWER)
    opened = _around(before_answer, _USER)[1]
    if not opened.startswith(after_user):
        raise ValueError
    between, _ = _around(after_answer, _AGAIN)
    if not between.startswith(user_close):
        raise ValueError
    user_open = between[len(user_close) :]
    with_system = render([_say("system", _SYSTEM), _say("user", _USER)])
    system_open, after_system = _around(with_system, _SYSTEM)
    before, _ = _around(after_system, _USER)
    system_close = before[: len(before) - len(user_open)]
    if not before.endswith(user_open) or not before_user.endswith(user_open):
        raise ValueError
    head = before_user[: len(before_user) - len(user_open)]
    default_system = None
    if head:
        if not head.startswith(system_open) or not head.endswith(system_close):
            raise ValueError
        default_system = head[len(system_open) : len(head) - len(system_close)]
    pictured = render([{"role": "user", "content": [_IMAGE, {"type": "text", "text": _USER}]}])
    image = _around(pictured, _USER)[0][len(before_user) :]
    answer_open = opened[len(after_user) :]
    return PromptSpec(
        default_system, system_open, system_close, user_open, user_close, assistant_open, user_close, image, answer_open
    )


def _probes() -> list[list[Message]]:
    pictures = {"role": "user", "content": [_IMAGE, _IMAGE, {"type": "text", "text": "What differs?\n"}]}
    return [
        [_say("user", "Hi")],
        [_say("system", "Be brief. "), pictures],
        [pictures, _say("assistant", " 1\n\n2"), _say("user", "{{ why }} <b>?")],
        [_say("system", ""), _say("user", "a"), _say("assistant", "b"), pictures],
    ]


def _say(role: str, text: str) -> Message:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _around(text: str, mark: str) -> tuple[str, str]:
    before, after = text.split(mark)
    return before, after
