"""Every failure that glimpse-edge reports on purpose.

    GlimpseError
    ├── BundleError                 a bundle cannot be used
    │   ├── BundleNotFoundError     no bundle at the given place (also a FileNotFoundError)
    │   ├── BundleFormatError       the manifest is not one this version reads
    │   └── BundleDamagedError      a file of the bundle is missing, cut or altered
    ├── InputError                  the request cannot be answered (also a ValueError)
    │   ├── ImageError              the image cannot be read or is not of an accepted form
    │   ├── PromptError             the prompt cannot be built, or does not fit
    │   └── PruningError            the pruning options make no sense for this request
    ├── HubError                    a model hub cannot give what was asked for
    │   └── HubUnreachableError     there is no connection to it, and the cache does not have it
    ├── BackendError                the inference engine is missing or failed
    │   └── PluginError             (in ``glimpse_plugins.errors``) the compaction plugin cannot be built or used
    ├── SessionError                the session is closed or busy
    └── ExportError                 (in ``glimpse_export.errors``) an export cannot be done

A message says what is wrong, where, and what to do next. A failure is an exception, never an answer.
"""

import re

# The name and password of an address, as a camera's; a path keeps one slash of the two.
_SECRET = re.compile(r"(?<=[a-zA-Z]{2}:/)(/?)[^/@\s]+@")


def printable(text: str, kept: str = "\n") -> str:
    """Returns text that may come from a file as what a terminal or a log can be given, without passwords of addresses.

    Args:
        text: any text.
        kept: the control characters that stay; others are escaped.
    """
    clean = "".join(char if char.isprintable() or char in kept else f"\\x{ord(char):02x}" for char in text)
    return _SECRET.sub(r"\1***@", clean)


class GlimpseError(Exception):
    """Base of all errors that glimpse-edge raises on purpose."""

    def __str__(self) -> str:
        """Returns the message without control characters: it may quote a file of somebody else."""
        return printable(super().__str__())


class BundleError(GlimpseError):
    """A bundle cannot be used."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """There is no bundle at the given place."""


class BundleFormatError(BundleError):
    """The manifest is not one that this version reads."""


class BundleDamagedError(BundleError):
    """A file of the bundle is missing, cut short or altered."""


class InputError(GlimpseError, ValueError):
    """The request cannot be answered as it was asked."""


class ImageError(InputError):
    """An image cannot be read, or is not of an accepted form."""


class PromptError(InputError):
    """The prompt cannot be built, or does not fit into the context."""


class PruningError(InputError):
    """The pruning options make no sense for this request."""


class HubError(GlimpseError):
    """A model hub cannot give what was asked for."""


class HubUnreachableError(HubError):
    """A model hub cannot be reached, and the cache does not have what was asked for."""


class BackendError(GlimpseError):
    """The inference engine is missing, or it failed."""


class SessionError(GlimpseError):
    """The session is closed, or busy with another request."""
