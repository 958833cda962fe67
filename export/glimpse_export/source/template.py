"""Cuts a model's chat template (Jinja) at its variable parts, so the runtime needs no template engine.

The template is rendered with marks in place of texts, the fixed pieces between them are taken out, and the pieces
are proved: conversations put together from them must equal what the template itself renders.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glimpse_export.errors import CheckpointError, UnsupportedError
from glimpse_export.model.fields import read_json
from glimpse_runtime.bundle.manifest import PromptSpec
from glimpse_runtime.files.reading import read_small_text
from glimpse_runtime.interrupt import Interrupt, Interrupted

_SYSTEM, _USER, _ANSWER, _AGAIN = "\x01system\x01", "\x01user\x01", "\x01answer\x01", "\x01again\x01"
_IMAGE = {"type": "image"}
# A template is a program of somebody else: what it may give, and how long it may take.
_LONGEST, _SECONDS = 1 << 20, 10
Message = dict[str, Any]


def read_template(folder: Path) -> str:
    """Returns the chat template of a checkpoint folder.

    Raises:
        CheckpointError: it has none, or it cannot be read.
    """
    path = folder / "chat_template.jinja"
    try:
        if path.is_file():
            return read_small_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); download the checkpoint again") from None
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = read_json(folder / name, missing_ok=True).get("chat_template")
        if isinstance(template, list):
            template = _default_template(template, folder / name)
        if isinstance(template, str):
            return template
    raise CheckpointError(f"{folder} has no chat template (chat_template.jinja or .json); the checkpoint is incomplete")


def _default_template(named: list[Any], path: Path) -> str:
    """Takes the template called ``default`` from a list of named ones, as transformers does."""
    for entry in named:
        if isinstance(entry, dict) and entry.get("name") == "default" and isinstance(entry.get("template"), str):
            return str(entry["template"])
    raise CheckpointError(f"{path} lists chat templates and none is called 'default'; name one so")


def cut_template(source: str, where: str) -> PromptSpec:
    """Returns the pieces of a chat template.

    Args:
        source: the Jinja text.
        where: what to call it in errors.

    Raises:
        UnsupportedError: the template does not compose from such pieces.
    """
    render = _Renderer(source, where)
    try:
        pieces = _cut(render)
    except ValueError:
        raise UnsupportedError(f"{where}: the chat template is not made of fixed pieces around the messages") from None
    for messages in _probes():
        if compose(pieces, messages) != render(messages):
            raise UnsupportedError(f"{where}: the chat template changes with the content of the messages")
    return pieces


def render_template(source: str, where: str, messages: Sequence[Message]) -> str:
    """Returns what a chat template makes of a conversation, ending where the next answer starts.

    Raises:
        UnsupportedError: it cannot be rendered.
    """
    return _Renderer(source, where)(messages)


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


def _cut(render: "_Renderer") -> PromptSpec:
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


class _Renderer:
    """Renders the template as transformers does."""

    def __init__(self, source: str, where: str) -> None:
        try:
            from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment
        except ImportError:
            raise UnsupportedError('reading a chat template needs: pip install "glimpse-edge[export]"') from None
        self._where = where

        class Bounded(ImmutableSandboxedEnvironment):
            """Also refuses products and powers that are far larger than a prompt."""

            intercepted_binops = frozenset(("*", "**"))

            def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
                if operator == "**" or _too_large(left, right):
                    raise ValueError(f"{operator} with such values is not allowed")
                return SandboxedEnvironment.call_binop(self, context, operator, left, right)

        environment = Bounded(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        environment.globals["raise_exception"] = self._refuse
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # a syntax error, or whatever the parser makes of a strange text
            raise UnsupportedError(f"{where}: the chat template cannot be parsed: {_reason(error)}") from None

    def __call__(self, messages: Sequence[Message], open_answer: bool = True) -> str:
        pieces: list[str] = []

        def render() -> str:
            left = _LONGEST
            for piece in self._template.generate(messages=list(messages), add_generation_prompt=open_answer):
                pieces.append(piece)
                left -= len(piece)
                if left < 0:
                    raise ValueError(f"it gives more than {_LONGEST} characters")
            return "".join(pieces)

        try:
            return Interrupt(_SECONDS).run(render)
        except Interrupted:
            raise UnsupportedError(
                f"{self._where}: the chat template is not rendered within {_SECONDS} s; take the base's chat template"
            ) from None
        except UnsupportedError:
            raise
        except Exception as error:  # a template is a program: it may fail in any way
            raise UnsupportedError(f"{self._where}: the chat template cannot be rendered: {_reason(error)}") from None

    def _refuse(self, message: str) -> None:
        raise UnsupportedError(f"{self._where}: the chat template refuses a plain conversation: {message}")


def _too_large(left: object, right: object) -> bool:
    """Whether a product makes a text or list longer than a template can need."""
    sizes = [len(value) for value in (left, right) if isinstance(value, (str, bytes, list, tuple))]
    counts = [abs(value) for value in (left, right) if isinstance(value, (int, float))]
    return bool(sizes) and max(sizes) * max(counts, default=1) > _LONGEST


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
