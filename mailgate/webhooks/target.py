"""One webhook as it is reached: signed requests by POST, and what an answer means."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from mailgate.backends.http import Fetcher
from mailgate.backends.questions import BackendError, IBackendReactor
from mailgate.config.webhooks import WebhookSection
from mailgate.stores.lists import FileError
from mailgate.stores.secret_lines import SecretFile
from mailgate.webhooks.queue_file import Batch
from mailgate.wire.signature import FIELD, sign

__all__ = ["NotTakenError", "Target", "TargetError", "make_targets"]


class NotTakenError(Exception):
    """The webhook has not taken what it was sent. The text is for the log, and holds no secret."""


class TargetError(ValueError):
    """Webhooks that cannot work: for each, the place in the configuration and why."""

    def __init__(self, errors: Sequence[tuple[tuple[str, ...], str]]) -> None:
        super().__init__("; ".join(text for _, text in errors))
        self.errors = errors


class Target:
    """ValueError, at construction, where the section cannot work."""

    def __init__(self, name: str, section: WebhookSection, reactor: IBackendReactor) -> None:
        self.name = name
        self.section = section
        self._clock: IReactorTime = reactor
        self._secrets = SecretFile(section.secret_file, reactor)
        self._fetcher = Fetcher(reactor, connect_timeout=section.timeout, ca=section.ca)

    def send(self, batch: Batch) -> Deferred[None]:
        """Done once the webhook has taken it; NotTakenError, within the section's `timeout`."""
        sent = Deferred.fromCoroutine(self._post(batch))
        sent.addTimeout(self.section.timeout, self._clock, onTimeoutCancel=_late)
        return sent

    def close(self) -> Deferred[None]:
        """Close the kept connections."""
        return self._fetcher.close()

    async def _post(self, batch: Batch) -> None:
        body = _body_of(self.name, batch)
        moment = int(self._clock.seconds())
        fields = {
            "Content-Type": "application/json",
            "User-Agent": "mailgate",
            "Mailgate-Webhook": self.name,
            FIELD: sign(self._secrets(), moment, body),
        }
        try:
            status = await self._fetcher.status("POST", self.section.url, fields, body)
        except BackendError as error:
            raise NotTakenError(str(error)) from None
        if not 200 <= status < 300:
            where = ": redirects are not followed" if 300 <= status < 400 else ""
            raise NotTakenError(f"it answers {status}{where}")


def _body_of(name: str, batch: Batch) -> bytes:
    """What is sent of a batch."""
    events = ",".join(
        f'{{"id":{json.dumps(one.key)},"type":{json.dumps(one.kind)},"data":{one.line}}}' for one in batch.events
    )
    return f'{{"webhook":{json.dumps(name)},"missed":{batch.missed},"events":[{events}]}}'.encode("ascii")


def make_targets(sections: Mapping[str, WebhookSection], reactor: IBackendReactor) -> Mapping[str, Target]:
    """A target for each section; TargetError."""
    made: dict[str, Target] = {}
    errors: list[tuple[tuple[str, ...], str]] = []
    for name, section in sections.items():
        try:
            made[name] = Target(name, section, reactor)
        except FileError as error:
            errors += [(("webhooks", name, "secret_file"), text) for text in error.errors]
        except ValueError as error:
            errors.append((("webhooks", name), str(error)))
    if errors:
        raise TargetError(errors)
    return made


def _late(_outcome: object, seconds: float) -> NoReturn:
    raise NotTakenError(f"no answer within {seconds:g} s")
