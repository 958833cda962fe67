"""The one place where the version of glimpse-edge is written."""

__version__ = "0.1.0"
