"""The plugin registry. A "library" is a text file: its first line says which creator it holds."""

from pathlib import Path

MAGIC = "fake plugin library "


class IPluginRegistry:
    def __init__(self) -> None:
        self.creators: set[tuple[str, str, str]] = set()

    def load_library(self, path: str) -> object | None:
        """A text ``fake plugin library NAME VERSION NAMESPACE`` registers a creator; anything else does not load."""
        try:
            line = Path(path).read_text().splitlines()[0]
        except (OSError, UnicodeDecodeError, IndexError):
            return None
        if not line.startswith(MAGIC):
            return None
        name, version, namespace = line[len(MAGIC) :].split()
        self.creators.add((name, version, namespace))
        return object()

    def get_creator(self, name: str, version: str, namespace: str = "") -> object | None:
        return object() if (name, version, namespace) in self.creators else None
