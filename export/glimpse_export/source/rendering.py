"""Renders a chat template as transformers does, within bounds: it is a program of somebody else.

The environment is that of ``transformers.utils.chat_template_utils``: blocks trimmed, ``break`` and ``continue``, the
``generation`` tag (which marks what an assistant says and changes nothing of the text), ``tojson`` without escapes,
``strftime_now``, ``raise_exception``, and a ``dict`` and a ``namespace`` that lead nowhere.
"""

import contextlib
import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from glimpse_export.errors import UnsupportedError
from glimpse_runtime.interrupt import Interrupt, Interrupted

Message = dict[str, Any]
# What a template may give, how long it may take, and the memory of the process that renders it.
_LONGEST, _SECONDS, _MEMORY_BYTES = 1 << 20, 10, 1 << 30
# Isolated, so that no module of the current folder is imported; the packages are those of this process.
_CHILD = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]);from glimpse_export.source.rendering import serve; serve()"
)
_INSTALL = 'reading a chat template needs: pip install "glimpse-edge[export]"'
_TAKE_THE_BASES = "take the base's chat template"


class Renderer:
    """One template, rendered by a process of its own: what runs in this one could be neither stopped nor bounded."""

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
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _CHILD, json.dumps([place for place in sys.path if place])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise UnsupportedError(
                f"{where}: no process can be started to render the chat template ({error.strerror}); close other "
                "programs, then run the command again"
            ) from None
        weakref.finalize(self, _end, self._process)
        self._ask({"source": source, "variables": {"tools": None, "documents": None, **(variables or {})}})

    def __call__(self, messages: Sequence[Message], open_answer: bool = True) -> str:
        """Renders a conversation.

        Args:
            messages: the conversation.
            open_answer: end where the next answer starts.

        Raises:
            UnsupportedError: it cannot be rendered, within the bounds.
        """
        return self._ask({"messages": list(messages), "add_generation_prompt": open_answer})

    def _ask(self, request: Mapping[str, Any]) -> str:
        """Has the process do something; what it says is a text, or why there is none."""
        try:
            line = Interrupt(_SECONDS).run(lambda: self._exchange(json.dumps(request).encode() + b"\n"))
        except Interrupted:
            _end(self._process)
            raise UnsupportedError(
                f"{self._where}: the chat template is not rendered within {_SECONDS} s; {_TAKE_THE_BASES}"
            ) from None
        if not line:
            _end(self._process)
            raise UnsupportedError(
                f"{self._where}: the chat template ends the process that renders it; {_TAKE_THE_BASES}"
            )
        found = json.loads(line)
        if "error" in found:
            raise UnsupportedError(found["error"] if found["error"] == _INSTALL else f"{self._where}: {found['error']}")
        return str(found["text"])

    def _exchange(self, request: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
            return self._process.stdout.readline()
        except (OSError, ValueError):  # it has ended
            return b""


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def serve() -> None:
    """Renders one template for the process that has started this one: a JSON object a line in, one out."""
    _bound_memory()
    template: Any = None
    variables: Mapping[str, Any] = {}
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            if template is None:
                variables = request["variables"]
                template, text = _environment(_refuse).from_string(request["source"]), ""
            else:
                text = _render(template, {**request, **variables})
            answer = {"text": text}
        except ImportError:
            answer = {"error": _INSTALL}
        except _RefusedError as error:
            answer = {"error": f"the chat template refuses a plain conversation: {error}"}
        except Exception as error:  # a template is a program: it may fail in any way
            act = "parsed" if template is None else "rendered"
            answer = {"error": f"the chat template cannot be {act}: {_reason(error)}; {_TAKE_THE_BASES}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _bound_memory() -> None:
    try:
        import resource
    except ImportError:  # on Windows there is the limit of time alone
        return
    with contextlib.suppress(OSError, ValueError):  # a lower one is set already
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))


def _render(template: Any, given: Mapping[str, Any]) -> str:
    pieces: list[str] = []
    left = _LONGEST
    for piece in template.generate(**given):
        pieces.append(piece)
        left -= len(piece)
        if left < 0:
            raise ValueError(f"it gives more than {_LONGEST} characters")
    return "".join(pieces)


class _RefusedError(Exception):
    """The template's own ``raise_exception``."""


def _refuse(message: object = "it says no reason") -> None:
    raise _RefusedError(message)


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
