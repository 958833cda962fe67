"""Where things lie in the clone."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
GOLDEN = TESTS / "golden" / "modelA"
FAKE_TENSORRT = TESTS / "stand_ins" / "fake_tensorrt"
SOURCE_ROOTS = ("runtime", "export", "models", "plugins")
