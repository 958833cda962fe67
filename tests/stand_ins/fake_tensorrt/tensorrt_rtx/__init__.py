"""Stands in for the module ``tensorrt_rtx``; see ``fake_trt``."""

import os

from fake_trt.module import content

globals().update(content("tensorrt_rtx", os.environ.get("FAKE_TENSORRT_RTX", "1.7.1")))
