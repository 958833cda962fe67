"""What is freed at the end of a ``with`` block."""

from typing import TypeVar

Own = TypeVar("Own", bound="Closing")


class Closing:
    """A context manager that closes what it gives."""

    def close(self) -> None:
        """Frees the memory."""
        raise NotImplementedError

    def __enter__(self: Own) -> Own:
        """Returns the object itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes it."""
        self.close()
