"""What can go wrong while exporting; the same tree as the runtime's errors.

ExportError
├── ModelNotFoundError      no such model name, hub id or folder
├── CheckpointError         files or tensors are missing, damaged or of the wrong shape
├── BudgetError             the model would need more memory at run time than it may have
├── UnsupportedError        the model asks for something this version cannot export
├── OutputError             the bundle cannot be written where it was asked for
├── BuildError              an engine cannot be built from a bundle
└── CertificateError        the bundle does not compute what the original computes
"""

from typing import TYPE_CHECKING

from glimpse_runtime.errors import GlimpseError

if TYPE_CHECKING:
    from glimpse_runtime.bundle.certificate import Certificate


class ExportError(GlimpseError):
    """An export cannot be done."""


class ModelNotFoundError(ExportError):
    """There is no such model name, hub id or folder."""


class CheckpointError(ExportError):
    """A checkpoint's files or tensors are missing, damaged or of the wrong shape."""


class UnsupportedError(ExportError):
    """The model asks for something this version cannot export; it is refused rather than ignored."""


class BudgetError(ExportError):
    """The model would need more memory at run time than it may have."""


class OutputError(ExportError):
    """The bundle cannot be written where it was asked for."""


class BuildError(ExportError):
    """An engine cannot be built from a bundle."""


class CertificateError(ExportError):
    """The bundle does not compute what the original computes, or that cannot be checked.

    Attributes:
        certificate: what was found, None when nothing could be checked.
    """

    def __init__(self, message: str, certificate: "Certificate | None" = None) -> None:
        """Keeps the certificate."""
        super().__init__(message)
        self.certificate = certificate
