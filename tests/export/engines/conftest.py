"""A board that builds engines in the test's own process."""

from pathlib import Path

import pytest

from glimpse_export.engines import builder
from glimpse_export.engines.build.build import build_engine
from glimpse_export.engines.build.job import Job
from glimpse_export.engines.plugin import Plugin
from glimpse_runtime.engines.flavours import installed
from glimpse_runtime.engines.gpu import Gpu

ORIN = Gpu("Orin", (8, 7), 8 << 30, True)


@pytest.fixture
def machine(fake_tensorrt: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A board with an empty cache; builds run in this process, whose memory is enough."""
    fake_tensorrt.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    fake_tensorrt.setattr(builder, "current_gpu", lambda: ORIN)
    fake_tensorrt.setattr(builder, "available_bytes", lambda: 64 << 30)
    fake_tensorrt.setattr(builder, "build_apart", lambda job: build_engine(installed(job.target), through_json(job)))
    library = tmp_path / "plugin.so"
    library.write_text("fake plugin library CompactMany 1 glimpse\n")
    fake_tensorrt.setattr(builder, "find_plugin", lambda *arguments: Plugin(library, "sources"))
    return fake_tensorrt


def through_json(job: Job) -> Job:
    read = Job.from_json(job.to_json())
    assert read == job
    return read
