"""Stands in for the module ``tensorrt``; see ``fake_trt``."""

import os

from fake_trt.module import content

globals().update(content("tensorrt", os.environ.get("FAKE_TENSORRT", "10.15.1")))
