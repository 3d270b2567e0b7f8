"""`[auth.NAME]` of kind file: users and their secrets as `mailgate password` writes them, one a line.

    ann@example.org:$argon2id$... SCRAM-SHA-256$...
    scanner:{PLAIN}secret    # needs CRAM-MD5

Behind the name and a colon stand the forms (see `mailgate.auth.secrets`), separated by spaces or tabs. Names are held
equal without regard to case, as people type addresses; what a session goes by is the name as it stands in the file.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from mailgate.auth.checker import (
    CRAM_MD5,
    PASSWORD_MECHANISMS,
    SCRAM_MECHANISMS,
    AuthTools,
    AvatarId,
    IChecker,
    IProven,
    IScramSecrets,
)
from mailgate.auth.secrets import SecretVerifier, StoredSecret
from mailgate.config.auth import FileAuth
from mailgate.config.machine import holds_a_line
from mailgate.stores.lists import LineError, LinesError, WatchedFile
from mailgate.wire.sasl_text import SaslError, parse_name, prepare
from mailgate.wire.scram_secret import DEFAULT_ITERATIONS, ScramSecret

__all__ = ["FileChecker", "User", "Users", "build", "check_name", "parse_users", "warnings"]

#: So many wrong lines are told at once.
_TOLD = 10
_NOBODY = "has no user: nobody can log in"

_log = Logger()


@dataclass(frozen=True, slots=True)
class User:
    """One line: the name in UTF-8, as it stands there."""

    name: bytes
    secret: StoredSecret


@dataclass(frozen=True, slots=True)
class Users:
    """What the file holds: its users by folded name, and the mechanisms that their secrets can serve."""

    by_name: Mapping[str, User]
    mechanisms: frozenset[str]
    scram_iterations: int

    def find(self, name: bytes | str) -> User | None:
        """The user of a name that a client gave."""
        try:
            return self.by_name.get(_folded(name.decode() if isinstance(name, bytes) else name, stored=False))
        except ValueError:
            return None

    @property
    def decoy(self) -> StoredSecret | None:
        """What is tried for an unknown user, so that the answer takes as long as for the first one."""
        return next((user.secret for user in self.by_name.values()), None)


def check_name(name: str) -> str:
    """`name`; ValueError where no line can begin with it."""
    parse_name(name.encode())
    _folded(name, stored=True)
    if any(one.isspace() for one in name) or ":" in name or name.startswith("#"):
        raise ValueError("a name has no space and no colon in it, and does not start with #")
    return name


def parse_users(lines: Iterable[tuple[int, str]]) -> Users:
    """The users of numbered lines; LinesError, with the first ten and without any secret, where lines are wrong."""
    by_name: dict[str, User] = {}
    numbers: dict[str, int] = {}
    wrong: list[LineError] = []
    for number, line in lines:
        try:
            key, user = _parse(line)
            if key in numbers:
                raise ValueError(f"stands in line {numbers[key]} already, perhaps in another case")
        except ValueError as error:
            if len(wrong) == _TOLD:
                raise LinesError(wrong, more=True) from None
            wrong.append(LineError(number, str(error)))
            continue
        by_name[key], numbers[key] = user, number
    if wrong:
        raise LinesError(wrong)
    scrams = [scram for user in by_name.values() if (scram := user.secret.scram) is not None]
    has_plain = any(user.secret.plain is not None for user in by_name.values())
    return Users(
        by_name,
        PASSWORD_MECHANISMS | (SCRAM_MECHANISMS if scrams else set()) | ({CRAM_MD5} if has_plain else set()),
        scrams[0].iterations if scrams else DEFAULT_ITERATIONS,
    )


@implementer(IChecker, IScramSecrets)
class FileChecker:
    """Knows users by a file, which is read again when it changes. It always has an answer."""

    credentialInterfaces = (IUsernamePassword, IUsernameHashedPassword, IProven)  # noqa: N815 (twisted.cred's)
    depends_on_client = False

    def __init__(self, section: FileAuth, clock: IReactorTime, verifier: SecretVerifier) -> None:
        """FileError where the file cannot be used."""
        self._path = section.path
        self._has_users = False
        self._file = WatchedFile(section.path, self._read, clock)
        self._verifier = verifier

    @property
    def mechanisms(self) -> frozenset[str]:
        """PLAIN and LOGIN, and those for which at least one user has the form that they need."""
        return self._file.value.mechanisms

    @property
    def version(self) -> object:
        """What the file holds now."""
        return self._file.value

    @property
    def scram_iterations(self) -> int:
        """Those of the first user who has a secret for SCRAM."""
        return self._file.value.scram_iterations

    def scram_secret(self, username: str) -> ScramSecret | None:
        """As in IScramSecrets; at once."""
        user = self._file.value.find(username)
        return user.secret.scram if user else None

    def requestAvatarId(self, credentials: Any) -> Deferred[AvatarId]:  # noqa: N802 (twisted.cred's)
        """As in IChecker."""
        if IUsernamePassword.providedBy(credentials):
            return Deferred.fromCoroutine(self._by_password(credentials))
        user = self._file.value.find(credentials.username)
        if user is None:
            return fail(UnauthorizedLogin("unknown user"))
        if IUsernameHashedPassword.providedBy(credentials) and not _proves(credentials, user.secret.plain):
            return fail(UnauthorizedLogin("wrong password, or a user without one that CRAM-MD5 can use"))
        return succeed(user.name)

    def close(self) -> None:
        """Nothing is open."""

    def _read(self, lines: Iterable[tuple[int, str]]) -> Users:
        users = parse_users(lines)
        if self._has_users and not users.by_name:
            _log.warn("{path}: {text}", path=str(self._path), text=_NOBODY)
        self._has_users = bool(users.by_name)
        return users

    async def _by_password(self, credentials: IUsernamePassword) -> AvatarId:
        users = self._file.value
        user = users.find(credentials.username)
        is_right = await self._verifier.verify(user.secret if user else users.decoy, credentials.password)
        if user is None or not is_right:
            raise UnauthorizedLogin("wrong password or unknown user")
        return user.name


def build(section: FileAuth, tools: AuthTools) -> FileChecker:
    """See `mailgate.auth.checker`."""
    return FileChecker(section, tools.reactor, tools.secrets)


def warnings(section: FileAuth) -> list[str]:
    """What is no error, but should be seen to: others than the owner and its group can read the file, or write it, or
    it has no user."""
    try:
        mode = stat.S_IMODE(section.path.stat().st_mode)
    except OSError:
        return []
    found = []
    if mode & 0o037:
        text = f"holds secrets and has mode {mode:04o}: 0600, or 0640 with mailgate's group, is enough"
        found.append(f"{section.path}: {text}")
    if not holds_a_line(section.path):
        found.append(f"{section.path}: {_NOBODY}")
    return found


def _proves(credentials: IUsernameHashedPassword, plain: str | None) -> bool:
    return plain is not None and credentials.checkPassword(plain.encode()) is True


def _parse(line: str) -> tuple[str, User]:
    name, colon, forms = line.partition(":")
    if not colon:
        raise ValueError("not of the form NAME:SECRET, as mailgate password prints it")
    name = name.rstrip()
    key = _folded(check_name(name), stored=True)
    return key, User(name.encode(), StoredSecret.parse(forms))


def _folded(name: str, *, stored: bool) -> str:
    try:
        return prepare(name, stored=stored).casefold()
    except SaslError:
        raise ValueError("a name that SASLprep refuses") from None
