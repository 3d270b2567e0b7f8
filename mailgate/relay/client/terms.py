"""On what terms sessions with next hops are opened: a route's TLS, login and introductions, with its files read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from twisted.internet.interfaces import IOpenSSLClientConnectionCreator

from mailgate.config.routes import ClientAuth, ServerRoute
from mailgate.config.schema import Route
from mailgate.relay.attempt import Target
from mailgate.relay.client.tokens import TOKEN_MECHANISMS, TokenTerms, read_token_terms
from mailgate.relay.security.demand import Demand
from mailgate.tls.client import ClientContexts
from mailgate.tls.dane import Tlsa
from mailgate.tls.pem import TlsError

__all__ = ["PLAIN", "Login", "Terms", "TermsError", "TlsMode", "read_terms", "terms_of"]

TlsMode = Literal["off", "opportunistic", "required", "verified", "implicit"]

#: The longest first line of a password file, in octets: it must fit a line of AUTH in base64 (RFC 4954 section 4).
_MAX_SECRET = 8192


class TermsError(ValueError):
    """What is wrong with routes: each text with its key, ("routes", "out", "auth", "password_file")."""

    def __init__(self, errors: Sequence[tuple[tuple[str, ...], str]]) -> None:
        super().__init__("; ".join(f"{'.'.join(key)}: {text}" for key, text in errors))
        self.errors = tuple(errors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Who we are at a next hop. `secret` is the password or the token; `mechanisms` in lower case, the best first.
    With `tokens` the secret is a token that is got from there first."""

    username: str
    secret: str = field(repr=False)
    mechanisms: tuple[str, ...]
    without_tls: bool = False
    has_certificate: bool = False
    tokens: TokenTerms | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a route asks of each session, as ServerRoute has it. `contexts` is there where `tls` is not "off". With
    `tlsa` a host must match these records; the first of `tlsa_names` is the name that it is asked under (see Demand).
    """

    tls: TlsMode = "off"
    tls_name: str = ""
    tls_ca: Path | None = None
    tls_fingerprints: tuple[str, ...] = ()
    certificate: Path | None = None
    tlsa: tuple[Tlsa, ...] = ()
    tlsa_names: tuple[str, ...] = ()
    contexts: ClientContexts | None = None
    login: Login | None = None
    xclient: bool = False
    xforward: bool = False
    proxy_protocol: bool = False
    chunking: bool = True

    @property
    def must_have_tls(self) -> bool:
        """Whether there is no session without TLS."""
        return self.tls in ("required", "verified", "implicit")

    @property
    def must_verify(self) -> bool:
        """Whether there is none but with a peer that has proved who it is."""
        return self.tls in ("verified", "implicit") or bool(self.tls_fingerprints or self.tlsa)

    def under(self, demand: Demand) -> Terms:
        """These terms, with what is asked of one host."""
        match demand.level:
            case "encrypted":
                return replace(self, tls="required")
            case "verified":
                return replace(self, tls="verified")
            case "pinned":
                return replace(self, tls="required", tls_fingerprints=demand.fingerprints)
            case "dane":
                return replace(self, tls="required", tlsa=demand.tlsa, tlsa_names=demand.names)
            case "clear":
                return replace(self, tls="off")
        return self

    def creator(self, target: Target) -> IOpenSSLClientConnectionCreator:
        """The client's side of a handshake with this host. TlsError where a file cannot be used."""
        if self.contexts is None:
            raise TlsError("TLS is off")
        if self.tlsa:
            return self.contexts.client_creator(
                hostname=self.tlsa_names[0],
                verify=False,
                ca=self.tls_ca,
                tlsa=self.tlsa,
                names=self.tlsa_names,
                certificate=self.certificate,
            )
        return self.contexts.client_creator(
            hostname=self.tls_name or (target.host if target.port else "localhost"),
            verify=self.must_verify,
            ca=self.tls_ca,
            fingerprints=self.tls_fingerprints,
            certificate=self.certificate,
        )


#: Clear text, no login, nobody introduced.
PLAIN = Terms()


def read_terms(routes: Mapping[str, Route], contexts: ClientContexts) -> dict[str, Terms]:
    """The terms of the routes to servers, by name. TermsError, with everything that is wrong, where a file is missing
    or does not serve."""
    found: dict[str, Terms] = {}
    errors: list[tuple[tuple[str, ...], str]] = []
    for name, route in routes.items():
        if not isinstance(route, ServerRoute):
            continue
        try:
            found[name] = terms_of(route, contexts)
        except TermsError as error:
            errors += [(("routes", name, *key), text) for key, text in error.errors]
    if errors:
        raise TermsError(errors)
    return found


def terms_of(route: ServerRoute, contexts: ClientContexts) -> Terms:
    """The terms of one route; TermsError with keys within its section."""
    errors: list[tuple[tuple[str, ...], str]] = []
    if route.tls_fingerprints and route.tls in ("off", "opportunistic"):
        text = f'is for nothing with tls = "{route.tls}", where mail goes out in clear text as well: use "required"'
        errors.append((("tls_fingerprints",), text))
    login = None
    if route.auth is not None:
        try:
            login = _login(route.auth, has_certificate=route.certificate is not None)
        except TermsError as error:
            errors += [(("auth", *key), text) for key, text in error.errors]
    terms = Terms(
        tls=route.tls,
        tls_name=route.tls_name or "",
        tls_ca=route.tls_ca,
        tls_fingerprints=tuple(route.tls_fingerprints),
        certificate=route.certificate,
        contexts=None if route.tls == "off" else contexts,
        login=login,
        xclient=route.xclient,
        xforward=route.xforward,
        proxy_protocol=route.proxy_protocol,
        chunking=route.chunking,
    )
    errors += _unusable(terms, contexts)
    if errors:
        raise TermsError(errors)
    return terms


def _unusable(terms: Terms, contexts: ClientContexts) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong with the files, each tried by itself so that the error has its key."""
    errors: list[tuple[tuple[str, ...], str]] = []
    if terms.tls == "off":
        return errors
    for key, ca, certificate in (("tls_ca", terms.tls_ca, None), ("certificate", None, terms.certificate)):
        if ca is None and certificate is None:
            continue
        try:
            contexts.client_creator(hostname="", verify=False, ca=ca, certificate=certificate)
        except TlsError as error:
            errors.append(((key,), str(error)))
    return errors


def _login(auth: ClientAuth, *, has_certificate: bool) -> Login:
    errors: list[tuple[tuple[str, ...], str]] = []
    if "external" in auth.mechanisms and not has_certificate:
        errors.append((("mechanisms",), "external shows a certificate: give the route its `certificate`"))
    secret, tokens = "", None
    mechanisms: tuple[str, ...] = tuple(auth.mechanisms)
    try:
        if auth.password_file is not None:
            secret = _password(auth.password_file)
        if auth.oauth is not None:
            tokens = read_token_terms(auth.oauth)
            mechanisms = mechanisms if "mechanisms" in auth.model_fields_set else TOKEN_MECHANISMS
    except TermsError as error:
        errors += error.errors
    except ValueError as error:
        errors.append((("oauth",), str(error)))
    if errors:
        raise TermsError(errors)
    return Login(
        username=auth.username,
        secret=secret,
        mechanisms=mechanisms,
        without_tls=auth.without_tls,
        has_certificate=has_certificate,
        tokens=tokens,
    )


def _password(path: Path) -> str:
    try:
        with path.open("rb") as file:
            line = file.readline(_MAX_SECRET + 2).rstrip(b"\r\n")
        secret = line.decode("utf-8")
    except OSError as error:
        raise TermsError([(("password_file",), f"{path}: cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        # Its own text would quote the password.
        raise TermsError([(("password_file",), f"{path}: its first line is not UTF-8")]) from None
    if not secret:
        raise TermsError([(("password_file",), f"{path}: its first line is empty")])
    if len(line) > _MAX_SECRET or "\0" in secret:
        raise TermsError([(("password_file",), f"{path}: its first line is no password")])
    return secret
