"""Which addresses stand for others: aliases, whole domains, catch-all addresses, and senders that come back.

Order, for an address of one of our domains: what the sources of the domain say of the address itself, with its
extension and then without it; what they say of "@domain"; and where the directory does not know it, the catch-all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.address import Address, AddressError
from mailgate.awaiting import answered, run
from mailgate.backends.questions import BackendError
from mailgate.interfaces import Expanded, IAliases, IRecipientDirectory, RecipientStatus
from mailgate.reply import Reply
from mailgate.rewriting.source import MAX_TARGETS, AliasSource
from mailgate.rewriting.srs import Srs, SrsError
from mailgate.rewriting.tables import base_of, key_of
from mailgate.stores.domains import DomainTable
from mailgate.verdict import Defer, Reject

__all__ = ["Aliases", "DomainAliases"]

_log = Logger()

#: Aliases that lead to aliases, and seconds for all questions about one address.
_MOST_STEPS, _LONGEST = 10, 60.0

_LOOP = Reply.of(451, "4.3.5", "This address cannot be resolved now")
_AWAY = Reply.of(451, "4.4.3", "The recipient cannot be looked up now, try again later")
_NOT_OURS = Reply.of(550, "5.1.1", "No such recipient here")

_Steps = Generator[Awaitable[Any], Any, Expanded]


@dataclass(frozen=True, slots=True)
class DomainAliases:
    """What `[domains.NAME]` says of aliases. `delimiter` is "" where addresses have no extensions."""

    sources: tuple[AliasSource, ...] = ()
    catch_all: str = ""
    delimiter: str = "+"


@implementer(IAliases)
class Aliases:
    """IAliases by configuration: `domains` for those that have aliases, `is_local` tells which are ours."""

    def __init__(
        self,
        domains: Mapping[str, DomainAliases],
        directory: IRecipientDirectory,
        is_local: Callable[[str], bool],
        srs: Srs | None,
        clock: IReactorTime,
    ) -> None:
        self._domains = DomainTable(domains)
        self._directory = directory
        self._is_local = is_local
        self._srs = srs
        self._clock = clock

    def expand(self, address: Address) -> Expanded | Awaitable[Expanded]:
        if self._srs is not None and self._srs.is_ours(address):
            try:
                return (self._srs.reverse(address),)
            except SrsError as error:
                return Reject(_NOT_OURS, str(error))
        if self._domains.match(address.domain) is None:
            return None
        try:
            expanded = run(self._expand(address))
        except Exception:
            return _unavailable(Failure(), address)
        if not isinstance(expanded, Deferred):
            return expanded
        expanded.addTimeout(_LONGEST, self._clock, onTimeoutCancel=_late)
        return expanded.addErrback(_unavailable, address)

    def return_path(self, sender: Address, target: Address) -> Address | None:
        if self._srs is None or self._is_local(sender.domain) or self._is_local(target.domain):
            return None
        if sender.domain == self._srs.domain:
            return None
        return self._srs.forward(sender)

    def _expand(self, address: Address) -> _Steps:
        """Follow aliases to the last: each address is asked for once, and one that stands for itself is a target."""
        targets: dict[Address, None] = {}
        seen = {address}
        stage = [address]
        for _ in range(_MOST_STEPS):
            following: list[Address] = []
            for one in stage:
                try:
                    found = yield from self._look_up(one)
                except AddressError as error:
                    return Defer(_LOOP, f"an alias of {one} leads to no address: {error}")
                for target in (one,) if found is None else found:
                    if target == one:
                        targets[target] = None
                    elif target not in seen:
                        seen.add(target)
                        following.append(target)
                if len(seen) > MAX_TARGETS:
                    return Defer(_LOOP, f"{address} stands for more than {MAX_TARGETS} addresses")
            if not following:
                break
            stage = following
        else:
            return Defer(_LOOP, f"{address}: aliases lead to aliases more than {_MOST_STEPS} times")
        if not targets:
            return Defer(_LOOP, f"{address}: its aliases lead in a circle")
        return None if list(targets) == [address] else tuple(targets)

    def _look_up(self, address: Address) -> Generator[Awaitable[Any], Any, Sequence[Address] | None]:
        """What one address stands for; None for itself."""
        section = self._domains.match(address.domain)
        if section is None:
            return None
        base, extension = base_of(address.local_part, section.delimiter)
        keys = [(key_of(address.local_part, address.domain), "")]
        if extension:
            keys.append((key_of(base, address.domain), extension))
        keys.append((f"@{address.domain}", ""))
        for key, kept in keys:
            for source in section.sources:
                found = source.find(key)
                if isinstance(found, Awaitable):
                    found = yield found
                if found is not None:
                    return [_target(one, address, kept) for one in found]
        if section.catch_all:
            status = self._directory.lookup(address)
            if isinstance(status, Awaitable):
                status = yield answered(status)
            if status is RecipientStatus.UNAVAILABLE:
                raise BackendError("whether the directory knows it cannot be told")
            if status is RecipientStatus.UNKNOWN:
                return [Address.parse(section.catch_all)]
        return None


def _unavailable(failure: Failure, address: Address) -> Defer:
    failure.trap(Exception)
    if failure.check(CancelledError):
        failure.raiseException()
    if not failure.check(BackendError):
        _log.failure("the aliases of {address} cannot be looked up", failure=failure, address=str(address))
    return Defer(_AWAY, f"the aliases of {address} cannot be looked up: {failure.getErrorMessage()}")


def _late(_outcome: object, seconds: float) -> NoReturn:
    raise BackendError(f"no answer within {seconds:g} s")


def _target(text: str, address: Address, extension: str) -> Address:
    """A target as an address: "@domain" keeps the local part, and an extension goes along. AddressError where that is
    none."""
    try:
        if text.startswith("@"):
            return Address.parse(str(Address(address.local_part, text[1:])))
        target = Address.parse(text)
        return Address.parse(str(Address(target.local_part + extension, target.domain))) if extension else target
    except AddressError as error:
        raise AddressError(f'"{text}" for {address}: {error}') from None
