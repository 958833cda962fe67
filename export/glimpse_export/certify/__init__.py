"""Checks a written bundle against an independent reference, one layer at a time, and certifies what was found."""

from glimpse_export.certify.certifier import certify, command
from glimpse_export.certify.reference.libraries import require_libraries

__all__ = ["certify", "command", "require_libraries"]
