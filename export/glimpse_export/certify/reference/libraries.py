"""What certification needs to be installed, beside what any export needs."""

import importlib.util
import sys

from glimpse_export.errors import CertificateError


def require_libraries() -> None:
    """Checks that what certification needs is installed.

    Raises:
        CertificateError: it is not.
    """
    for name in ("torch", "transformers", "onnxruntime", "sentencepiece"):
        # None stands for a module that must not be imported, for which find_spec raises.
        if sys.modules.get(name, name) is None or importlib.util.find_spec(name) is None:
            raise lacking(name)


def lacking(need: str) -> CertificateError:
    """Returns the error for something that is not there."""
    extra = "cpu,export" if need == "onnxruntime" else "export"
    return CertificateError(
        f'the certificate needs {need}; run: pip install "glimpse-edge[{extra}]", or export with --certify off'
    )
