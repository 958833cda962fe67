"""What becomes of loaded sessions in a child that is forked off: they stay the parent's.

The threads of an inference engine do not exist in the child, so running it, or destroying it when the child ends, waits
for them for ever.
"""

import ctypes
import os
import weakref
from typing import Protocol

from glimpse_runtime.errors import SessionError


class Forkable(Protocol):
    """What holds an engine."""

    def _leave_to_parent(self) -> object:
        """Forgets the engine, refuses to be used from now on, and returns what must never be destroyed."""
        ...


class OfOneProcess:
    """What holds an engine, or is read from one: it can neither be copied nor sent to another process."""

    def __reduce__(self) -> str:
        """Refuses to be pickled or copied.

        Raises:
            SessionError: always.
        """
        raise SessionError(
            f"a {type(self).__name__} can be neither copied nor sent to another process; load the bundle there, and "
            "send images, questions and texts"
        )


_HOLDERS: "weakref.WeakSet[Forkable]" = weakref.WeakSet()


def watch(holder: Forkable) -> None:
    """Has a holder leave its engine to the parent wherever this process is forked."""
    _HOLDERS.add(holder)


def loaded_before() -> SessionError:
    """Returns the error for a session that is the parent's."""
    return SessionError(
        "this session was loaded before the process was forked; load the bundle in the child, or start processes with "
        "the method spawn (multiprocessing.set_start_method)"
    )


def _in_child() -> None:
    for holder in list(_HOLDERS):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(holder._leave_to_parent()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
