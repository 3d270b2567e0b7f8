"""What goes wrong with a milter."""

from __future__ import annotations

from mailgate.scanners.pool import ScannerError

__all__ = ["MilterError"]


class MilterError(ScannerError):
    """The milter cannot be asked, or does not follow the protocol."""
