"""From what the user named to a bundle's folder: nothing, a folder, or a hub id."""

import os
from pathlib import Path

from glimpse_runtime.bundle.hub.name import parse_hub_id
from glimpse_runtime.bundle.packaged import packaged_bundle
from glimpse_runtime.checked import shown
from glimpse_runtime.errors import InputError


def locate(place: str | os.PathLike[str] | None) -> Path:
    """Returns the folder of a bundle, downloading it when it is named by a hub id.

    Only text of the form ``owner/name`` or ``owner/name@revision`` that is not a local folder is a hub id; a path
    object and text such as ``./owner/name`` never are. Nothing else of the runtime touches the network.

    Args:
        place: a folder or a hub id; None is the packaged pocket bundle.

    Raises:
        InputError: it is no text, or empty.
        BundleNotFoundError: there is no packaged bundle, or the hub cannot give the named one.
        BundleFormatError: the hub's bundle is not one that this version reads.
    """
    if place is None:
        return packaged_bundle()
    if not isinstance(place, (str, os.PathLike)) or not (name := os.fspath(place)) or not isinstance(name, str):
        raise InputError(f"bundle must be a folder or a hub id, found {shown(place)}")
    folder = Path(os.path.expanduser(place))  # noqa: PTH111  (never fails)
    is_there = os.path.exists(folder)  # noqa: PTH110  (a folder that may not be read is no error here)
    hub_id = parse_hub_id(place) if isinstance(place, str) and not is_there else None
    if hub_id is None:
        return folder
    from glimpse_runtime.bundle.hub.fetch import fetch_bundle

    return fetch_bundle(hub_id)
