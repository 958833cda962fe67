"""The rooms of the house from bottom to top: a module imports from its own room and from those below it.

A name stands for the module and for all in it: ``glimpse_runtime.bundle`` also is ``glimpse_runtime.bundle.hub``; of
several the longest decides. A package without what is in it is written with ``.__init__``.
"""

from sources import arrows, modules

from glimpse_models.families import FAMILIES

REGISTRY, LIGHT, HEAVY = "registry of models", "light half of a family", "heavy half of a family"
ROOMS: dict[str, tuple[str, ...]] = {
    "ground": tuple(
        f"glimpse_runtime.{name}"
        for name in (
            *("errors", "arrays", "checked", "closing", "devices", "fork", "interrupt", "lazy", "stats", "_version"),
        )
    ),
    REGISTRY: (
        *(f"glimpse_models.{name}" for name in ("__init__", "dims", "facts", "families", "registry", "listing")),
        *("glimpse_models.pocket.__init__", "glimpse_models.pocket.facts", "glimpse_models.pocket_plus"),
    ),
    "runtime: files": ("glimpse_runtime.files",),
    "runtime: bundle": ("glimpse_runtime.bundle",),
    "runtime: inputs": ("glimpse_runtime.inputs",),
    LIGHT: (),
    "runtime: pruners": ("glimpse_runtime.pruners",),
    "runtime: pruning": ("glimpse_runtime.pruning",),
    "runtime: inspection": ("glimpse_runtime.inspection",),
    "runtime: engines": ("glimpse_runtime.engines",),
    "plugins": ("glimpse_plugins",),
    "runtime: backends": ("glimpse_runtime.backends",),
    "runtime: steps": ("glimpse_runtime.steps",),
    "runtime: session": ("glimpse_runtime.session",),
    "runtime: public names": ("glimpse_runtime.__init__",),
    "runtime: adapters": ("glimpse_runtime.adapters",),
    "runtime: cli": ("glimpse_runtime.cli",),
    "plugins: command": ("glimpse_plugins.__main__",),
    "export: ground": ("glimpse_export.errors",),
    "export: model": ("glimpse_export.model",),
    "export: source": ("glimpse_export.source",),
    "export: weights": ("glimpse_export.weights",),
    "export: graphs": ("glimpse_export.graphs",),
    "export: planning": ("glimpse_export.planning",),
    "export: write": ("glimpse_export.write",),
    "export: engines": ("glimpse_export.engines",),
    "export: certify": ("glimpse_export.certify",),
    "export: forecast": ("glimpse_export.forecast",),
    HEAVY: (),
    "export: the way": ("glimpse_export.exporter",),
    "export: public names": ("glimpse_export.__init__",),
    "export: cli": ("glimpse_export.cli",),
    "pocket: scenes": ("glimpse_models.pocket.scenes",),
    "pocket: model": ("glimpse_models.pocket.model",),
    "pocket: what is trained and evaluated": ("glimpse_models.pocket",),
}
ORDER = {room: height for height, room in enumerate(ROOMS)}


def room_of(module: str) -> str:
    """Returns the room that a module is in.

    Raises:
        LookupError: the table has no room for it.
    """
    family = family_of(module)
    if family is not None:
        return _room_of_family(family, module)
    own = f"{module}.__init__" if modules()[module].name == "__init__.py" else module
    fitting = [(len(name), room) for room, names in ROOMS.items() for name in names if f"{own}.".startswith(f"{name}.")]
    if not fitting:
        raise LookupError(f"{module} is in no room of tests/house/rooms.py")
    return max(fitting)[1]


def family_of(module: str) -> str | None:
    """Returns the package of the family that a module belongs to, None for others."""
    names = [family.__name__ for family in FAMILIES]
    return next((name for name in names if f"{module}.".startswith(f"{name}.")), None)


def reachable(start: str) -> set[str]:
    """Returns a module and all modules that it imports, and that these import, early or late."""
    found, pending = {start}, [start]
    while pending:
        targets = {arrow.target for arrow in arrows(pending.pop())} & modules().keys()
        pending += targets - found
        found |= targets
    return found


def _room_of_family(family: str, module: str) -> str:
    """A family's folder has the rooms ``facts``, ``light`` and ``heavy``."""
    part = module.removeprefix(family).removeprefix(".").partition(".")[0]
    return {"": REGISTRY, "facts": REGISTRY, "light": LIGHT, "heavy": HEAVY}[part]
