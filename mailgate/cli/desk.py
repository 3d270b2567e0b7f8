"""Where the commands get at the queue: through the daemon's socket, or in the spool itself when there is no daemon."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, IncompleteRead
from pathlib import Path
from time import monotonic, sleep
from typing import Protocol, TypeVar
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ValidationError

from mailgate.cli.common import FailedError
from mailgate.config.places import Places
from mailgate.interfaces import Grouping
from mailgate.web.account_models import AccountRelease, AccountReleased, SuspectedAccounts
from mailgate.web.models import (
    Changed,
    Groups,
    Page,
    Resumed,
    Shown,
    Sites,
    Status,
    SuspensionNow,
    Suspensions,
)
from mailgate.web.quarantine_models import (
    Deleted,
    DeleteOrder,
    KeptPage,
    KeptShown,
    Released,
    ReleaseOrder,
    Rescanned,
    RescanOrder,
)
from mailgate.web.rate_models import RateQuery, RatesNow
from mailgate.web.selection import EVERYTHING, Action, Change, Resume, Selection, Suspend
from mailgate.web.suppression_models import SuppressionCount, SuppressionOrder, Unsuppress

__all__ = ["Desk", "open_desk"]

M = TypeVar("M", bound=BaseModel)

#: Seconds for one answer of the daemon; a change of a long queue takes its time.
_TIMEOUT, _CHANGE_TIMEOUT = 60.0, 3600.0
#: Seconds that a daemon has which is there but does not answer: it starts, stops, or replaces its first worker.
_PATIENCE = 5.0
_PAUSE = 0.05
#: What connecting ends with where no daemon listens.
_NOBODY = (FileNotFoundError, ConnectionRefusedError)


class Desk(Protocol):
    """The queue. Every method fails with FailedError, only."""

    def list(self, selection: Selection, limit: int, after: str = "") -> Page:
        """At most `limit` entries from behind the place `after`."""

    def show(self, queue_id: str) -> Shown | None:
        """A message, or None."""

    def summary(self, by: Grouping, limit: int, selection: Selection) -> Groups:
        """The largest groups of entries."""

    def change(self, action: Action, change: Change) -> Changed:
        """Do something with entries."""

    def kept(self, selection: Selection, limit: int, after: str = "") -> KeptPage:
        """At most `limit` entries of what is in quarantine, from behind the place `after`."""

    def kept_message(self, queue_id: str) -> KeptShown | None:
        """A message in quarantine, or None."""

    def release_kept(self, order: ReleaseOrder) -> Released:
        """Let mail go that is in quarantine."""

    def delete_kept(self, order: DeleteOrder) -> Deleted:
        """Remove mail that is in quarantine."""

    def rescan(self, order: RescanOrder) -> Rescanned:
        """Ask content filters again."""

    def sites(self, selection: Selection = EVERYTHING) -> Sites:
        """What the relay does now, for what is chosen."""

    def rates(self, query: RateQuery) -> RatesNow | None:
        """What became of mail in the last hour; None where nobody has counted."""

    def suspensions(self) -> Suspensions:
        """Those in force."""

    def suspend(self, order: Suspend) -> SuspensionNow:
        """Begin one."""

    def resume(self, order: Resume) -> Resumed:
        """End one."""

    def suppress(self, order: SuppressionOrder) -> SuppressionCount:
        """Put addresses on the suppression list."""

    def unsuppress(self, order: Unsuppress) -> SuppressionCount:
        """Take an address off it."""

    def accounts(self) -> SuspectedAccounts:
        """Accounts that are suspected."""

    def release_account(self, order: AccountRelease) -> AccountReleased:
        """End a suspicion."""

    def status(self) -> Status | None:
        """How the daemon is; None where none runs."""

    def close(self) -> None:
        """Let go of it."""


def open_desk(places: Places, config: Path) -> Desk:
    """The daemon's, if one answers; else the spool's own, for which `config` says what a change needs to know.

    Where somebody has the spool and does not answer, we wait a moment for him. FailedError where neither can be had;
    PermissionError where they are another user's.
    """
    if _is_answered(places.control):
        return _ControlDesk(places.control)
    # Imported for a stopped daemon only: it takes the relay, and as long as all the rest.
    from mailgate.cli.offline import OfflineDesk, SpoolInUseError

    with suppress(SpoolInUseError):
        return OfflineDesk(places, config)
    # The spool is not asked for meanwhile: a daemon that is started again is to find it free.
    if _is_answered(places.control, _PATIENCE):
        return _ControlDesk(places.control)
    return OfflineDesk(places, config)


def _is_answered(path: Path, patience: float = 0.0) -> bool:
    """Whether a daemon listens there, within so many seconds."""
    probe = _UnixConnection(path, _TIMEOUT)
    try:
        probe.connect_within(patience)
    except _NOBODY:
        return False
    except PermissionError as error:
        raise PermissionError(error.errno, error.strerror, str(path)) from None
    except OSError as error:
        raise FailedError(f"the daemon cannot be asked at {path}: {error.strerror or error}") from None
    probe.close()
    return True


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(str(self._path))
        except OSError:
            self.close()
            raise

    def connect_within(self, seconds: float) -> None:
        """Connect, and wait so long for somebody who listens."""
        end = monotonic() + seconds
        while True:
            try:
                self.connect()
            except _NOBODY:
                if monotonic() >= end:
                    raise
                sleep(_PAUSE)
            else:
                return


class _ControlDesk:
    def __init__(self, path: Path) -> None:
        self._path = path

    def list(self, selection: Selection, limit: int, after: str = "") -> Page:
        query = selection.model_dump(exclude_defaults=True) | {"limit": limit, "after": after}
        return self._ask(Page, "GET", f"/v1/queue?{urlencode(query, doseq=True)}")

    def show(self, queue_id: str) -> Shown | None:
        try:
            return self._ask(Shown, "GET", f"/v1/queue/{quote(queue_id, safe='')}")
        except _NothingThereError:
            return None

    def summary(self, by: Grouping, limit: int, selection: Selection) -> Groups:
        query = selection.model_dump(exclude_defaults=True) | {"by": by, "limit": limit}
        return self._ask(Groups, "GET", f"/v1/summary?{urlencode(query, doseq=True)}")

    def change(self, action: Action, change: Change) -> Changed:
        return self._tell(Changed, f"/v1/queue/{action}", change, _CHANGE_TIMEOUT)

    def kept(self, selection: Selection, limit: int, after: str = "") -> KeptPage:
        query = selection.model_dump(exclude_defaults=True) | {"limit": limit, "after": after}
        return self._ask(KeptPage, "GET", f"/v1/quarantine?{urlencode(query, doseq=True)}")

    def kept_message(self, queue_id: str) -> KeptShown | None:
        try:
            return self._ask(KeptShown, "GET", f"/v1/quarantine/{quote(queue_id, safe='')}")
        except _NothingThereError:
            return None

    def release_kept(self, order: ReleaseOrder) -> Released:
        return self._tell(Released, "/v1/quarantine/release", order, _CHANGE_TIMEOUT)

    def delete_kept(self, order: DeleteOrder) -> Deleted:
        return self._tell(Deleted, "/v1/quarantine/delete", order, _CHANGE_TIMEOUT)

    def rescan(self, order: RescanOrder) -> Rescanned:
        return self._tell(Rescanned, "/v1/quarantine/rescan", order, _CHANGE_TIMEOUT)

    def sites(self, selection: Selection = EVERYTHING) -> Sites:
        query = urlencode(selection.model_dump(exclude_defaults=True), doseq=True)
        return self._ask(Sites, "GET", f"/v1/sites?{query}")

    def rates(self, query: RateQuery) -> RatesNow | None:
        try:
            return self._ask(RatesNow, "GET", f"/v1/rates?{urlencode(query.model_dump(exclude_defaults=True))}")
        except _NothingThereError:  # a daemon of the version before
            return None

    def suspensions(self) -> Suspensions:
        return self._ask(Suspensions, "GET", "/v1/suspensions")

    def suspend(self, order: Suspend) -> SuspensionNow:
        return self._tell(SuspensionNow, "/v1/suspensions/suspend", order)

    def resume(self, order: Resume) -> Resumed:
        return self._tell(Resumed, "/v1/suspensions/resume", order, _CHANGE_TIMEOUT)

    def suppress(self, order: SuppressionOrder) -> SuppressionCount:
        return self._tell(SuppressionCount, "/v1/suppressions/add", order)

    def unsuppress(self, order: Unsuppress) -> SuppressionCount:
        return self._tell(SuppressionCount, "/v1/suppressions/remove", order)

    def accounts(self) -> SuspectedAccounts:
        return self._ask(SuspectedAccounts, "GET", "/v1/accounts")

    def release_account(self, order: AccountRelease) -> AccountReleased:
        return self._tell(AccountReleased, "/v1/accounts/release", order)

    def status(self) -> Status | None:
        return self._ask(Status, "GET", "/v1/status")

    def close(self) -> None:
        pass

    def _tell(self, model: type[M], target: str, order: BaseModel, timeout: float = _TIMEOUT) -> M:
        return self._ask(model, "POST", target, order.model_dump_json(exclude_defaults=True), timeout)

    def _ask(self, model: type[M], method: str, target: str, body: str | None = None, timeout: float = _TIMEOUT) -> M:
        order = None if body is None else body.encode()
        try:
            try:
                status, text = self._exchange(method, target, order, timeout)
            except (ConnectionError, IncompleteRead):
                if method != "GET":
                    raise
                # Who was asked has ended, and another one takes his place. To look twice changes nothing.
                status, text = self._exchange(method, target, order, timeout)
        except (OSError, HTTPException) as error:
            raise FailedError(f"the daemon did not answer at {self._path}: {error!r}") from None
        if status == 200:
            try:
                return model.model_validate_json(text)
            except ValidationError:
                problem = "does not answer as this command expects, and may be of another version: restart it"
                raise FailedError(f"the daemon at {self._path} {problem}") from None
        try:
            problem = str(json.loads(text)["error"])
        except (ValueError, KeyError, TypeError):
            problem = f"the daemon answered {status} at {self._path}"
        raise (_NothingThereError if status == 404 else FailedError)(problem)

    def _exchange(self, method: str, target: str, body: bytes | None, timeout: float) -> tuple[int, bytes]:
        """The status and the text of an answer."""
        connection = _UnixConnection(self._path, timeout)
        try:
            connection.connect_within(_PATIENCE)
            connection.request(method, target, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


class _NothingThereError(FailedError):
    pass
