"""A bundle's certificate: what export measured when it compared every stage with an independent reference."""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from glimpse_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from glimpse_runtime.bundle.records import read_versioned, to_json
from glimpse_runtime.errors import BundleFormatError, BundleNotFoundError
from glimpse_runtime.files.reading import read_small_text

if TYPE_CHECKING:
    from glimpse_runtime.bundle.bundle import Bundle

log = logging.getLogger("glimpse")

CERTIFICATE_NAME = "certificate.json"
CERTIFICATE_VERSION = 1
LEVELS = ("full", "quick")
HOW_TO_CERTIFY = "make one with: glimpse-export ... --certify quick"

# Read only where a check has no bound, or sits on it: elsewhere the bound says which way is better.
_HIGHER_IS_BETTER = ("cosine", "iou", "agreement", "equal")


@dataclasses.dataclass(frozen=True)
class Check:
    """One measured figure.

    Attributes:
        stage: the stage of the pipeline it belongs to.
        layer: the layer or block within it, None for the stage as a whole.
        measure: what was measured.
        value: the figure.
        bound: what it was held against; None is for information only.
        passed: whether it kept the bound.
    """

    stage: str
    layer: int | None
    measure: str
    value: int | float
    bound: int | float | None
    passed: bool


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What was compared, by what, and what came out.

    Attributes:
        certificate_version: version of this form.
        level: ``full`` or ``quick``.
        passed: whether every bound was kept.
        command: the export's command line.
        versions: versions of the packages that took part.
        precision: name of the precision per stage.
        files: SHA-256 of the files that were compared.
        checks: everything that was measured.
        manifest_sha256: ``Manifest.content_sha256`` of the bundle that was compared; None in older certificates.
    """

    certificate_version: int
    level: str
    passed: bool
    command: str
    versions: Mapping[str, str]
    precision: Mapping[str, str]
    files: Mapping[str, str]
    checks: tuple[Check, ...]
    manifest_sha256: str | None = None

    @classmethod
    def from_json(cls, text: str, where: str) -> "Certificate":
        """Reads a certificate.

        Raises:
            BundleFormatError: not JSON, an unknown version, or keys and values that do not fit.
        """
        certificate = read_versioned(cls, text, where, "certificate_version", CERTIFICATE_VERSION)
        if certificate.level not in LEVELS:
            raise BundleFormatError(f"{where}: level must be one of {', '.join(LEVELS)}, found {certificate.level!r}")
        if certificate.passed and not all(check.passed for check in certificate.checks):
            raise BundleFormatError(f"{where}: passed contradicts the checks; export the model again")
        return certificate

    def to_json(self) -> str:
        """Returns the certificate as readable JSON with a final newline."""
        return to_json(self)

    @property
    def first_failure(self) -> Check | None:
        """The check to look at first; None when all passed."""
        return next((check for check in self.checks if not check.passed), None)

    def foreign_files(self, manifest: Manifest) -> tuple[str, ...]:
        """Returns the names of files that are not those that were compared, the manifest among them."""
        listed = {name: spec.sha256 for name, spec in manifest.files.items()}
        names = sorted((set(listed) | set(self.files)) - {CERTIFICATE_NAME, MANIFEST_NAME})
        others = [name for name in names if listed.get(name) != self.files.get(name)]
        if self.manifest_sha256 not in (None, manifest.content_sha256):
            others.append(MANIFEST_NAME)
        return tuple(others)

    def worst(self) -> tuple[Check, ...]:
        """Returns the worst check for each measure of each stage, in the order of the checks.

        A measure may name a tensor after a space; those of all tensors count as one.
        """
        groups: dict[tuple[str, str], list[Check]] = {}
        for check in self.checks:
            groups.setdefault((check.stage, check.measure.partition(" ")[0]), []).append(check)
        return tuple(_worst(group) for group in groups.values())


def read_certificate(folder: Path) -> Certificate | None:
    """Reads the certificate of a bundle's folder, None when it has none.

    Raises:
        BundleFormatError: there is one that cannot be read.
    """
    path = folder / CERTIFICATE_NAME
    try:
        text = read_small_text(path)
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise BundleFormatError(f"{path} is not UTF-8 text; export the model again") from None
    except OSError as error:
        raise BundleFormatError(f"cannot read {path}: {error.strerror}; copy the bundle again") from None
    return Certificate.from_json(text, str(path))


def warn_if_uncertified(bundle: "Bundle") -> None:
    """Logs a warning, once per bundle, when nothing says that a bundle equals its original.

    The packaged bundle needs no certificate: it is checked where it is made.
    """
    if not (bundle.folder / CERTIFICATE_NAME).is_file() and not _is_packaged(bundle.folder):
        _warn(bundle.folder)


@functools.cache
def _warn(folder: Path) -> None:
    log.warning("the bundle %s has no certificate that it equals its original; %s", folder, HOW_TO_CERTIFY)


def _is_packaged(folder: Path) -> bool:
    from glimpse_runtime.bundle.packaged import packaged_bundle

    try:
        return folder == packaged_bundle().resolve()
    except BundleNotFoundError:
        return False


def _worst(group: list[Check]) -> Check:
    """A missed bound is worse than a kept one; among equals the value decides."""
    sign = -1 if _higher_is_better(group) else 1
    return max(group, key=lambda check: (not check.passed, sign * check.value))


def _higher_is_better(group: list[Check]) -> bool:
    for check in group:
        if check.bound is not None and check.value != check.bound:
            return (check.value > check.bound) == check.passed
    return any(word in group[0].measure for word in _HIGHER_IS_BETTER)
