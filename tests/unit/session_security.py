"""What the tests of secured sessions share: our certificate and those of clients, users and their secrets."""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from OpenSSL import SSL
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.auth.checker import AvatarId, IAuthReactor, IBearerToken, IChecker
from mailgate.auth.file import FileChecker
from mailgate.auth.portal import Authenticator
from mailgate.config.auth import FileAuth
from mailgate.tls.store import CertificateStore, ClientCertificates
from tests.unit.auth_stand import Pool, Reactor, stored, verifier
from tests.unit.certificates import Issued, authority, issue
from tests.unit.tls_pair import PlainClient

__all__ = ["ANN", "OTHER_ROOT", "PASSWORD", "ROOT", "Tokens", "b64", "client", "server", "tokens", "users"]

ROOT, OTHER_ROOT = authority(), authority("Other authority")
_SERVER = issue(ROOT, "mx.example.org")
#: A client's certificate that ROOT vouches for.
ANN = issue(ROOT, "ann@client.example")
PASSWORD = "correct horse"  # noqa: S105  for tests
_TOKENS = {"right"}


def server(
    folder: Path, mode: ClientCertificates = "none", *, root: Issued | None = None
) -> IOpenSSLServerConnectionCreator:
    """The server's side of handshakes; `root` is the authority of clients' certificates."""
    path = _SERVER.write(folder / "server.pem")
    client_ca = root.write_certificate(folder / "clients.pem") if root is not None else None
    return CertificateStore(path, Clock(), client_ca=client_ca).server_creator(mode)


def client(shown: Issued | None = None, *, newest: int = SSL.TLS1_3_VERSION, name: str = "") -> PlainClient:
    """A client that takes whatever server, and shows this certificate."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    # so that it could speak TLS 1.1
    context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
    context.set_min_proto_version(SSL.TLS1_VERSION)
    context.set_max_proto_version(newest)
    if shown is not None:
        context.use_certificate(shown.certificate)
        context.use_privatekey(shown.key)
    return PlainClient(context, name)


@functools.cache
def _stored(forms: tuple[str, ...]) -> str:
    return stored(PASSWORD, *forms)


def users(folder: Path, *forms: str, certificates: Mapping[str, str] | None = None) -> Authenticator:
    """Knows ann and her password by these forms, all at once; `certificates` as in Authenticator."""
    path = folder / "users"
    path.write_text(f"ann:{_stored(forms or ('argon2', 'scram'))}\n")
    reactor = Reactor()
    checked = verifier(reactor, Pool())
    checker = FileChecker(FileAuth(kind="file", path=path), cast(IAuthReactor, reactor), checked)
    return Authenticator(
        checker, clock=reactor, verifier=checked, cache=0, cache_size=0, certificates=dict(certificates or {})
    )


@implementer(IChecker)
class Tokens:
    """Knows tokens; `answer` is said instead, where it is there."""

    credentialInterfaces: Sequence[type] = (IBearerToken,)  # noqa: N815  twisted.cred's
    mechanisms = frozenset({"XOAUTH2", "OAUTHBEARER"})
    depends_on_client = False
    version: object = 1
    answer: Deferred[AvatarId] | None = None

    def requestAvatarId(self, credentials: Any) -> Deferred[AvatarId]:  # noqa: N802  twisted.cred's
        if self.answer is not None:
            return self.answer
        if credentials.token in _TOKENS:
            return succeed(credentials.username)
        return fail(UnauthorizedLogin("not a token of ours"))

    def close(self) -> None:
        """Nothing is open."""


def tokens(checker: Tokens | None = None) -> Authenticator:
    """Asks about tokens."""
    reactor = Reactor()
    return Authenticator(checker or Tokens(), clock=reactor, verifier=verifier(reactor, Pool()), cache=0, cache_size=0)


def b64(text: str) -> str:
    """A response as it stands on the wire."""
    return base64.b64encode(text.encode()).decode()
