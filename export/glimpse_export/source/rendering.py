"""Renders a chat template as transformers does, within bounds: it is a program of somebody else.

The environment is that of ``transformers.utils.chat_template_utils``: blocks trimmed, ``break`` and ``continue``, the
``generation`` tag (which marks what an assistant says and changes nothing of the text), ``tojson`` without escapes,
``strftime_now``, ``raise_exception``, and a ``dict`` and a ``namespace`` that lead nowhere.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import FrameType
from typing import Any

from glimpse_export.errors import UnsupportedError
from glimpse_runtime.interrupt import Interrupt, Interrupted

Message = dict[str, Any]
# What a template may give, and how long it may take.
_LONGEST, _SECONDS = 1 << 20, 10


class Renderer:
    """One template."""

    def __init__(self, source: str, where: str, variables: Mapping[str, str] | None = None) -> None:
        """Parses it.

        Args:
            source: the Jinja text.
            where: what to call it in errors.
            variables: what it sees beside the messages: the tokenizer's special tokens by their names.

        Raises:
            UnsupportedError: it cannot be parsed.
        """
        self._where = where
        self._variables = {"tools": None, "documents": None, **(variables or {})}
        try:
            environment = _environment(self._refuse)
        except ImportError:
            raise UnsupportedError('reading a chat template needs: pip install "glimpse-edge[export]"') from None
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # a syntax error, or whatever the parser makes of a strange text
            raise UnsupportedError(f"{where}: the chat template cannot be parsed: {_reason(error)}") from None

    def __call__(self, messages: Sequence[Message], open_answer: bool = True) -> str:
        """Renders a conversation.

        Args:
            messages: the conversation.
            open_answer: end where the next answer starts.

        Raises:
            UnsupportedError: it cannot be rendered, within the bounds.
        """
        pieces: list[str] = []
        given = {"messages": list(messages), "add_generation_prompt": open_answer, **self._variables}

        def render() -> str:
            sys.settrace(_ending_after(_SECONDS))  # of this thread, which would loop on when nobody waits for it
            left = _LONGEST
            for piece in self._template.generate(**given):
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


def _environment(refuse: Callable[[str], None]) -> Any:
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """The tag that marks what an assistant says."""

        tags = {"generation"}  # noqa: RUF012  (jinja2's own declaration)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            # As transformers calls it: what is set within stays within.
            return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

        def _said(self, caller: Callable[[], str]) -> str:
            return caller()

    class Bounded(ImmutableSandboxedEnvironment):
        """Also refuses products and powers that are far larger than a prompt."""

        intercepted_binops = frozenset(("*", "**"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "**" or _too_large(left, right):
                raise ValueError(f"{operator} with such values is not allowed")
            return SandboxedEnvironment.call_binop(self, context, operator, left, right)

    class Plain(Namespace):
        """A namespace without hidden attributes."""

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise SecurityError(f"a namespace cannot hold {name!r}")
            super().__setitem__(name, value)

    def namespace(*args: Any, **values: Any) -> Namespace:
        made = Plain()
        for name, value in dict(*args, **values).items():
            made[name] = value
        return made

    extensions = [Generation, "jinja2.ext.loopcontrols"]
    environment = Bounded(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": lambda *args, **values: dict(*args, **values),
        "namespace": namespace,
    }
    return environment


def _ending_after(seconds: float) -> Callable[[FrameType, str, Any], Any]:
    """Returns what ends the code of templates at their next line when the time is up."""
    until_s = time.monotonic() + seconds

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > until_s:
            raise Interrupted
        return trace if frame.f_code.co_filename == "<template>" else None

    return trace


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _too_large(left: object, right: object) -> bool:
    """Whether a product makes a text or list longer than a template can need."""
    sizes = [len(value) for value in (left, right) if isinstance(value, (str, bytes, list, tuple))]
    counts = [abs(value) for value in (left, right) if isinstance(value, (int, float))]
    return bool(sizes) and max(sizes) * max(counts, default=1) > _LONGEST


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
