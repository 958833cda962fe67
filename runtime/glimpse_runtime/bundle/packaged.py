"""The bundle that ships with the package."""

from importlib import resources
from pathlib import Path

from glimpse_models import PACKAGED_BUNDLE
from glimpse_runtime.bundle.manifest import MANIFEST_NAME
from glimpse_runtime.errors import BundleNotFoundError


def packaged_bundle() -> Path:
    """Returns the folder of the pocket bundle that ships with the package.

    Raises:
        BundleNotFoundError: this installation does not have it.
    """
    folder = Path(str(resources.files("glimpse_models"))) / PACKAGED_BUNDLE
    if not (folder / MANIFEST_NAME).is_file():
        raise BundleNotFoundError(
            f"the packaged pocket bundle is not at {folder}; name a bundle with --bundle, "
            "or make it with: glimpse-export --model pocket --out BUNDLE"
        )
    return folder
