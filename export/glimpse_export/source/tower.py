"""Finds the vision tower of a model whose base does not hold it: where the base's config says, or the user."""

from pathlib import Path, PurePosixPath

from glimpse_export.errors import ModelNotFoundError, UnsupportedError
from glimpse_export.source.resolve import Found, find_place
from glimpse_export.source.weight_folder import PATTERNS
from glimpse_runtime.bundle.hub.name import parse_hub_id

_FILES = ["config.json", "preprocessor_config.json", "*.index.json"]
_OPTION = "--vision-tower"


def find_tower(named: str | None, asked: str | None, base: Path, where: str) -> Found | None:
    """Returns the folder of the vision tower, downloaded where a hub id names it; None where the base holds it.

    Args:
        named: what the base's configuration names, None for a base that holds its tower.
        asked: the hub id or folder that the user asked for.
        base: the base's folder.
        where: what to call its configuration in errors.

    Raises:
        UnsupportedError: a tower was asked for, and the base holds its own.
        ModelNotFoundError: there is no such folder, or it cannot be downloaded.
    """
    if named is None:
        if asked is not None:
            raise UnsupportedError(f"{where}: the base holds its own vision tower; leave {_OPTION} {asked} away")
        return None
    if asked is not None:
        return find_place(asked, _FILES, None, PATTERNS)
    folder = _beside(named, base)
    if folder is not None:
        return Found(folder, named if _is_relative(named) else folder.name)
    if not _is_relative(named) or parse_hub_id(named) is None:
        raise ModelNotFoundError(
            f"{where} names the vision tower {named!r}, which is neither a folder here nor a hub id; name its folder "
            f"or hub id with {_OPTION}"
        )
    try:
        return find_place(named, _FILES, None, PATTERNS)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"the vision tower that {where} names: {error}; name it with {_OPTION}") from error


def _beside(named: str, base: Path) -> Path | None:
    """A folder of that name in the base's or beside it, or anywhere if the name says where."""
    places = (base, base.parent) if _is_relative(named) else (Path("/"),)
    return next((place / named for place in places if (place / named / "config.json").is_file()), None)


def _is_relative(named: str) -> bool:
    return not PurePosixPath(named).is_absolute() and not Path(named).is_absolute()
