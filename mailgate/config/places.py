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
    def set_aside(self) -> Path:
        """Where the spool puts what it cannot read, for a person to look at."""
        return self.spool / "set-aside"

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
    def digests(self) -> Path:
        """Which recipients have been told what is kept back from them."""
        return self.state_dir / "digests.db"

    @property
    def policies(self) -> Path:
        """The MTA-STS policies of destinations."""
        return self.state_dir / "mta-sts.db"

    @property
    def tls_reports(self) -> Path:
        """What is to be reported of TLS with destinations."""
        return self.state_dir / "tls-reports.db"

    @property
    def webhooks(self) -> Path:
        """The events that wait for webhooks."""
        return self.state_dir / "webhooks.db"

    @property
    def suppressions(self) -> Path:
        """The addresses that get no more mail of ours."""
        return self.state_dir / "suppressions.db"

    @property
    def rehearsal(self) -> Path:
        """What was found of copies of mail that another gateway handles."""
        return self.state_dir / "rehearsal.db"

    @property
    def injections(self) -> Path:
        """Which calls by HTTP have been carried out."""
        return self.state_dir / "injections.db"

    @property
    def control(self) -> Path:
        """The socket on which a running daemon answers."""
        return self.state_dir / "control"

    @property
    def originals(self) -> Path:
        """The directory of what messages in quarantine were before they were changed."""
        return self.state_dir / "quarantine"

    @property
    def secret(self) -> Path:
        """A file with octets that nobody else knows."""
        return self.state_dir / "secret"
