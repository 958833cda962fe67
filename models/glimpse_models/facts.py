"""What is known about a model before any of its files is read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelFacts:
    """One named model.

    Attributes:
        name: the name used on the command line.
        base: hub id of the base checkpoint; a leading ``package:`` names a folder inside ``glimpse_models``.
        adapter: the same for the GlimpsePrune adapter.
        licence: SPDX id or name of the weights' licence.
        terms: what the licence asks for, in one sentence.
        revision: pinned revision of the base's hub repository, None for its main branch.
        adapter_revision: the same for the adapter.
    """

    name: str
    base: str
    adapter: str
    licence: str
    terms: str
    revision: str | None = None
    adapter_revision: str | None = None
