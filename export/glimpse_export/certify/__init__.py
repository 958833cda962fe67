"""Checks a written bundle against an independent reference, one layer at a time, and certifies what was found."""

from glimpse_export.certify.certifier import certify, command, require_libraries
from glimpse_export.certify.record import CERTIFICATE_NAME, Certificate, Check

__all__ = ["CERTIFICATE_NAME", "Certificate", "Check", "certify", "command", "require_libraries"]
