"""Names of repositories on a Hugging Face hub: ``owner/name`` or ``owner/name@revision``."""

import re
from dataclasses import dataclass

_HUB_ID = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?", re.ASCII)


@dataclass(frozen=True)
class HubId:
    """A repository and a branch, tag or commit of it; None is its main branch."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        """Returns the form the user writes."""
        return f"{self.repository}@{self.revision}" if self.revision else self.repository


def parse_hub_id(text: str) -> HubId | None:
    """Returns the hub id that ``text`` is by its form, None when it has another form."""
    found = _HUB_ID.fullmatch(text)
    return HubId(found["repository"], found["revision"]) if found else None
