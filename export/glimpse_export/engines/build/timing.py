"""What TensorRT measured while it built engines, kept for the next ones: these take a fraction of the time."""

import hashlib
import logging
from pathlib import Path
from typing import Any

from glimpse_runtime.engines.flavours import Installed
from glimpse_runtime.files.atomic import open_atomic
from glimpse_runtime.files.places import cache_folder

log = logging.getLogger("glimpse")


class TimingCache:
    """The timing cache of one version of TensorRT on one GPU; does nothing where there is none."""

    def __init__(self, found: Installed, gpu: str) -> None:
        """Names its file."""
        name = hashlib.sha256(f"{found.flavour.name} {found.version} {gpu}".encode()).hexdigest()[:32]
        self._path: Path | None = None
        if found.flavour.timing_cache:
            self._path = cache_folder() / "engines" / "timing" / f"{name}.cache"

    def load(self, config: Any) -> None:
        """Gives the builder what is known; what it cannot read, of another version, counts as nothing."""
        if self._path is None:
            return
        try:
            known = self._path.read_bytes()
        except OSError:
            known = b""
        cache = config.create_timing_cache(known) or config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)

    def save(self, config: Any) -> None:
        """Keeps what the builder knows now."""
        cache = config.get_timing_cache() if self._path is not None else None
        if self._path is None or cache is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open_atomic(self._path) as file:
                file.write(memoryview(cache.serialize()))
        except OSError as error:
            log.debug("cannot keep the timing cache %s: %s", self._path, error)
