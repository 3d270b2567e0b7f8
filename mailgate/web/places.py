"""Where the parts of the gateway's state lie: what the daemon and the command agree on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Places"]


@dataclass(frozen=True, slots=True)
class Places:
    """The names in a state directory."""

    state_dir: Path

    @property
    def spool(self) -> Path:
        """The directory of the spool."""
        return self.state_dir / "spool"

    @property
    def history(self) -> Path:
        """The directory of the history."""
        return self.state_dir / "history"

    @property
    def counters(self) -> Path:
        """What filters remember."""
        return self.state_dir / "counters.db"

    @property
    def reports(self) -> Path:
        """What is to be reported of mail in others' name."""
        return self.state_dir / "dmarc.db"

    @property
    def control(self) -> Path:
        """The socket on which a running daemon answers."""
        return self.state_dir / "control"

    @property
    def secret(self) -> Path:
        """A file with octets that nobody else knows."""
        return self.state_dir / "secret"
