"""No hall among the rooms, and no file too long to read in one sitting."""

from collections import Counter
from pathlib import Path

from sources import modules
from support.places import ROOT

MOST_FILES, MOST_LINES = 16, 400
LONG_FILES: dict[str, str] = {}  # with the reason
FOLDERS = ("runtime", "export", "models", "plugins", "tests", "benchmarks", "docs", "examples")


def files() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")) if ".cache" not in path.parts]


def test_no_room_is_a_hall() -> None:
    counts = Counter(path.parent for path in modules().values() if path.name != "__init__.py")
    counts += Counter(path.parent for path in files() if (ROOT / "tests") in path.parents)
    halls = {str(folder.relative_to(ROOT)): count for folder, count in counts.items()}
    halls = {name: count for name, count in halls.items() if count > MOST_FILES}
    assert not halls, f"more than {MOST_FILES} files: {halls}"


def test_no_file_is_too_long() -> None:
    long = {
        path.relative_to(ROOT).as_posix()
        for path in files()
        if len(path.read_text(encoding="utf-8").splitlines()) > MOST_LINES
    }
    assert long == set(LONG_FILES), f"more than {MOST_LINES} lines, or listed and no longer so"
