"""Exports that stop on the way."""

from pathlib import Path
from typing import Any

import pytest

from glimpse_export.exporter import carry_out
from support.bundles import options


def interrupt_at_the_end(model: Path, out: Path, **changes: Any) -> None:
    """Leaves all stages finished."""
    with pytest.MonkeyPatch.context() as patch:

        def stop(*unused: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("glimpse_export.write.work.WorkFolder.assemble", stop)
        with pytest.raises(KeyboardInterrupt):
            carry_out(options(model, **changes), out)
