"""Access tokens for next hops that want OAuth 2.0 (RFC 6749): got when they are needed, and anew before they end."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import quote, quote_plus, urlencode, urlsplit

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from mailgate.backends.http import Fetched, Fetcher
from mailgate.backends.questions import BackendError, IBackendReactor, Questions, is_this_machine, read_secret
from mailgate.backends.together import Together
from mailgate.config.routes import ClientOAuth
from mailgate.relay.client.refresh_file import RefreshFile

__all__ = ["TOKEN_MECHANISMS", "TokenSource", "TokenSources", "TokenTerms", "read_token_terms"]

#: What a token can be used with, the one that every provider knows first.
TOKEN_MECHANISMS = ("xoauth2", "oauthbearer")

#: Seconds that a token is good for where its provider does not say, and that it must last to be used.
_LIFE, _MARGIN = 300.0, 60.0
#: Of its life, the share after which one is got anew that is good for less than so many seconds.
_SHARE, _SHORT = 0.8, 300.0
#: Seconds after a failure in which nobody is asked again.
_REST = 15.0
#: The longest token, in characters: one of 12 KiB in base64 is what servers read at most (RFC 4954 section 4).
_LONGEST = 8192
_TOKEN = re.compile(r"[!-~]+")
#: RFC 6749 section 5.2.
_ERROR = re.compile(r"[ !#-\[\]-~]{1,100}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTerms:
    """How tokens are got: the section, and what its files hold."""

    section: ClientOAuth
    client_secret: str = field(repr=False)
    refresh_token: str = field(repr=False)


def read_token_terms(section: ClientOAuth) -> TokenTerms:
    """The terms of a section; ValueError where a file does not serve, or a secret could be read on its way."""
    parts = urlsplit(section.token_url)
    if parts.scheme == "http" and not is_this_machine(parts.hostname or ""):
        raise ValueError(f"token_url: secrets would go to {parts.hostname} in clear text: use https://")
    return TokenTerms(
        section=section,
        client_secret=read_secret(section.client_secret_file) if section.client_secret_file else "",
        refresh_token=read_secret(section.refresh_token_file) if section.refresh_token_file else "",
    )


class _Granted(msgspec.Struct):
    """RFC 6749 section 5.1; other members do not matter."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105  the word of RFC 6750
    expires_in: float | str | None = None
    refresh_token: str | None = None


class _Denied(msgspec.Struct):
    error: str


class _DeniedError(BackendError):
    """The refresh token is good no more, or never was."""


class TokenSource:
    """The tokens of one account. Whoever asks at one time shares one request."""

    def __init__(self, terms: TokenTerms, reactor: IBackendReactor) -> None:
        self._terms = terms
        self._clock: IReactorTime = reactor
        section = terms.section
        self._whom = f"the token endpoint at {urlsplit(section.token_url).hostname}"
        self._fetcher = Fetcher(reactor, connect_timeout=section.timeout, ca=section.ca)
        self._questions = Questions(reactor, self._whom, limit=1, timeout=section.timeout)
        self._together: Together[str, str] = Together()
        self._refresh = RefreshFile(section.refresh_token_file, terms.refresh_token, reactor)
        self._token, self._good_until = "", 0.0
        self._trouble, self._rests_until = "", 0.0

    def token(self) -> str | Deferred[str]:
        """A token that is good now; BackendError, now or later, where there is none."""
        now = self._clock.seconds()
        if self._token and now < self._good_until:
            return self._token
        if now < self._rests_until:
            raise BackendError(self._trouble)
        return self._together.ask("", self._ask)

    def refused(self, token: str) -> None:
        """The next hop does not take this token: the next question brings another."""
        if token == self._token:
            self._token = ""

    def close(self) -> Deferred[None]:
        """End: what waits has no token."""
        self._questions.close()
        return self._fetcher.close()

    async def _ask(self) -> str:
        end_turn = await self._refresh.turn(self._terms.section.timeout)
        kept: Deferred[None] = succeed(None)
        try:
            granted = await self._questions.ask(self._granted_anew)
            life = _life(granted.expires_in)
            self._token = granted.access_token
            self._good_until = self._clock.seconds() + max(life - _MARGIN, life * _SHARE if life < _SHORT else 0.0)
            new, before = granted.refresh_token, self._refresh.token
            if new and before and new != before:
                kept = self._refresh.replace(new)
        except BackendError as error:
            self._trouble, self._rests_until = str(error), self._clock.seconds() + _REST
            raise
        finally:
            kept.addBoth(lambda _: end_turn())
        return self._token

    async def _granted_anew(self) -> _Granted:
        # Some providers end the whole account's access where a token is shown that they have replaced.
        self._refresh.reread()
        try:
            return await self._request()
        except _DeniedError:
            if not self._refresh.reread():
                raise
        return await self._request()

    async def _request(self) -> _Granted:
        section = self._terms.section
        form = {"grant_type": "client_credentials"}
        if self._refresh.token:
            form = {"grant_type": "refresh_token", "refresh_token": self._refresh.token}
        if section.scope:
            form["scope"] = section.scope
        fields = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        if section.client_auth == "basic":
            # RFC 6749 section 2.3.1
            pair = f"{quote_plus(section.client_id)}:{quote_plus(self._terms.client_secret)}"
            fields["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        else:
            form["client_id"] = section.client_id
            if self._terms.client_secret:
                form["client_secret"] = self._terms.client_secret
        body = urlencode(form, quote_via=quote).encode()
        answer = await self._fetcher.fetch("POST", section.token_url, fields, body)
        return self._granted(answer)

    def _granted(self, answer: Fetched) -> _Granted:
        if answer.status != 200:
            said = ""
            with suppress(msgspec.MsgspecError, RecursionError):
                error = msgspec.json.decode(answer.body, type=_Denied).error
                said = f": {error}" if _ERROR.fullmatch(error) else ""
            kind = _DeniedError if said == ": invalid_grant" else BackendError
            raise kind(f"{self._whom} answers {answer.status}{said}")
        try:
            granted = msgspec.json.decode(answer.body, type=_Granted)
        except (msgspec.MsgspecError, RecursionError):
            raise BackendError(f"{self._whom} answers with something else than a token") from None
        token = granted.access_token
        if granted.token_type.lower() != "bearer" or not _TOKEN.fullmatch(token) or len(token) > _LONGEST:
            raise BackendError(f"{self._whom} gives a token that cannot be used")
        return granted


class TokenSources:
    """A source for each account: routes that log in as the same one share it."""

    def __init__(self, reactor: IReactorTime) -> None:
        """`reactor` is all of one; only its clock is needed until a token is."""
        self._reactor = reactor
        self._sources: dict[str, TokenSource] = {}

    def of(self, terms: TokenTerms) -> TokenSource:
        """The source on these terms."""
        key = _key(terms)
        if key not in self._sources:
            self._sources[key] = TokenSource(terms, cast(IBackendReactor, self._reactor))
        return self._sources[key]

    def keep(self, terms: Iterable[TokenTerms]) -> None:
        """Close all but these."""
        wanted = {_key(one) for one in terms}
        for key in [one for one in self._sources if one not in wanted]:
            self._sources.pop(key).close()


def _key(terms: TokenTerms) -> str:
    """What tells one account from another, with the secret that its file held. The refresh token is of one that stays
    the same while it is replaced: a source that was closed in the middle of that would lose the new one."""
    told = (terms.section.model_dump_json(), terms.client_secret)
    return hashlib.blake2b(repr(told).encode(), digest_size=32).hexdigest()


def _life(seconds: float | str | None) -> float:
    """How long a token is good: some providers write the number as text."""
    with suppress(ValueError, TypeError):
        life = float(seconds if seconds is not None else _LIFE)
        if 0 < life < 366 * 86400:
            return life
    return _LIFE
