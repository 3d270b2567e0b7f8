"""`[auth.NAME]` of kind oauth: bearer tokens (RFC 6750), for XOAUTH2 and OAUTHBEARER (RFC 7628).

A token is checked here, as a JWT (RFC 7519) with the issuer's keys, or by the issuer itself (introspection, RFC 7662).
The claim `username_claim` says whose it is.
"""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import jwt
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgate.auth.checker import (
    TOKEN_MECHANISMS,
    AuthTools,
    AuthUnavailable,
    AvatarId,
    IAuthReactor,
    IBearerToken,
    IChecker,
)
from mailgate.auth.key_set import ALGORITHMS, KeySet
from mailgate.auth.remote import Questions, octets_of
from mailgate.backends.http import Fetcher
from mailgate.backends.questions import read_secret
from mailgate.config.auth import OAuthAuth

__all__ = ["OAuthChecker", "build"]

#: Seconds by which the issuer's clock and ours may differ.
_LEEWAY = 60

Claims = Mapping[str, Any]


def build(section: OAuthAuth, tools: AuthTools) -> OAuthChecker:
    """See `mailgate.auth.checker`."""
    return OAuthChecker(section, tools.reactor)


@implementer(IChecker)
class OAuthChecker:
    """Checks the tokens of the issuer of `section`; ValueError where the section cannot work."""

    credentialInterfaces = (IBearerToken,)  # noqa: N815 (twisted.cred's)
    mechanisms = TOKEN_MECHANISMS
    version: object = None
    depends_on_client = False

    def __init__(self, section: OAuthAuth, reactor: IAuthReactor) -> None:
        if (section.jwks is None) == (section.introspection is None):
            raise ValueError("jwks: give either jwks or introspection")
        if section.jwks is not None and not (section.issuer and section.audience):
            # without them, a token that the issuer has made for any other service would do
            raise ValueError("jwks: issuer and audience are needed with it")
        if bool(section.client_id) != (section.client_secret_file is not None):
            raise ValueError("client_id: client_id and client_secret_file go together")
        if section.jwks is not None and section.client_id:
            raise ValueError("client_id: only introspection needs it")
        self._section = section
        self._fetcher = Fetcher(reactor, connect_timeout=section.timeout, ca=section.ca)
        self._keys = KeySet(section.jwks, self._fetcher, reactor) if section.jwks else None
        url = section.jwks or section.introspection or ""
        self._whom = f"the issuer at {urlsplit(url).hostname}"
        self._headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        if section.client_secret_file is not None:
            secret = read_secret(section.client_secret_file)
            # RFC 6749 section 2.3.1
            pair = f"{quote(section.client_id, safe='')}:{quote(secret, safe='')}"
            self._headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        self._questions = Questions(reactor, self._whom, limit=section.connections, timeout=section.timeout)

    def requestAvatarId(self, credentials: IBearerToken) -> Deferred[AvatarId]:  # noqa: N802 (twisted.cred's)
        """The name that the token has."""
        return self._questions.ask(lambda: self._check(credentials))

    def close(self) -> Deferred[None]:
        """End what is asked, and the connections."""
        self._questions.close()
        return self._fetcher.close()

    async def _check(self, credentials: IBearerToken) -> AvatarId:
        keys = self._keys
        claims = await (self._introspect(credentials.token) if keys is None else self._verify(keys, credentials.token))
        scope = self._section.scope
        if scope and scope not in _words(claims.get("scope"), claims.get("scp")):
            raise UnauthorizedLogin("the token has not the scope that is needed")
        claim = self._section.username_claim
        name = claims.get(claim)
        if not isinstance(name, str) or not name:
            raise UnauthorizedLogin(f"the token has no claim {claim}")
        if claim == "email" and claims.get("email_verified") in (False, "false"):
            # its owner has only said that this is theirs
            raise UnauthorizedLogin("the address in the token is not verified")
        given = credentials.username.decode("utf-8", "replace")
        if given and given.casefold() != name.casefold():
            raise UnauthorizedLogin("the token is another user's")
        return octets_of(name, self._whom)

    async def _verify(self, keys: KeySet, token: str) -> Claims:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise UnauthorizedLogin("the token is no signed JWT") from None
        algorithm, identity = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS or not isinstance(identity, str | None):
            raise UnauthorizedLogin("the token's signature is of no algorithm that counts")
        key = await keys.find(identity, algorithm)
        if key is None:
            raise UnauthorizedLogin("the token's key is not in the issuer's key set")
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._section.audience,
                issuer=self._section.issuer,
                leeway=_LEEWAY,
                options={"require": ["exp", "iss", "aud"]},
            )
        except (jwt.PyJWTError, ValueError, OverflowError, RecursionError) as error:
            raise UnauthorizedLogin(f"the token is not valid ({type(error).__name__})") from None

    async def _introspect(self, token: str) -> Claims:
        form = urlencode({"token": token, "token_type_hint": "access_token"}, errors="replace").encode()
        answer = await self._fetcher.fetch("POST", self._section.introspection or "", self._headers, form)
        if answer.status != 200:
            # 401 too: it is us whom the issuer does not know
            raise AuthUnavailable(f"{self._whom} answers {answer.status}")
        try:
            claims = json.loads(answer.body)
        except (ValueError, RecursionError):
            claims = None
        if not isinstance(claims, dict) or not isinstance(claims.get("active"), bool):
            raise AuthUnavailable(f"{self._whom} answers with something else than an introspection")
        if not claims["active"]:
            raise UnauthorizedLogin("the token is not active")
        section = self._section
        if section.issuer and claims.get("iss", section.issuer) != section.issuer:
            raise UnauthorizedLogin("the token is another issuer's")
        if section.audience and section.audience not in _audience(claims.get("aud")):
            raise UnauthorizedLogin("the token is for another service")
        now = time.time()
        begins, ends = claims.get("nbf", now), claims.get("exp", now)
        if not (isinstance(begins, int | float) and isinstance(ends, int | float)):
            raise AuthUnavailable(f"{self._whom} answers with times that are no numbers")
        if not begins - _LEEWAY <= now <= ends + _LEEWAY:
            raise UnauthorizedLogin("the token is not valid now")
        return claims


def _words(*values: object) -> set[str]:
    """The scopes in claims: words of a text (RFC 8693 section 4.2) or a list."""
    words: set[str] = set()
    for value in values:
        parts = value.split(" ") if isinstance(value, str) else value if isinstance(value, list) else []
        words.update(part for part in parts if isinstance(part, str))
    return words


def _audience(value: object) -> set[str]:
    """A text or a list of them (RFC 7519 section 4.1.3); its texts may have spaces."""
    return {part for part in (value if isinstance(value, list) else [value]) if isinstance(part, str)}
