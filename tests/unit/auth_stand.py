"""What the tests of authentication share: a reactor that is a clock, threads that work at once, cheap secrets."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, cast

from argon2 import PasswordHasher
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from mailgate.auth.checker import IAuthReactor
from mailgate.auth.secrets import SecretVerifier
from mailgate.envelope import Client, Session, Tls
from mailgate.wire.scram_secret import MIN_ITERATIONS, ScramSecret

__all__ = ["CHEAP", "Pool", "Reactor", "failure_of", "outcome_of", "session", "stored", "verifier"]

#: Argon2 as cheap as it can be.
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class Reactor(Clock):
    """A clock whose thread is the test's."""

    def callFromThread(  # noqa: N802  Twisted's name
        self, call: Callable[..., object], *values: Any, **more: Any
    ) -> None:
        call(*values, **more)


class Pool(ThreadPool):
    """Counts what it is given, and works at once or, if told to wait, when `work` is called."""

    def __init__(self, *, waits: bool = False) -> None:
        super().__init__(0, 1)
        self.waits = waits
        self.given = 0
        self.state = "new"
        self._todo: list[Callable[[], None]] = []

    def start(self) -> None:
        self.state = "started"

    def stop(self) -> None:
        self.state = "stopped"

    def callInThreadWithCallback(  # type: ignore[override]  # noqa: N802  Twisted's name
        self, done: Callable[[bool, Any], object], func: Callable[..., Any], *values: Any, **more: Any
    ) -> None:
        def run() -> None:
            try:
                result = func(*values, **more)
            except BaseException:
                done(False, Failure())
            else:
                done(True, result)

        self.given += 1
        self._todo.append(run)
        if not self.waits:
            self.work()

    def work(self) -> None:
        """Do what waits."""
        todo, self._todo = self._todo, []
        for run in todo:
            run()


def verifier(reactor: Reactor, pool: Pool | None = None) -> SecretVerifier:
    return SecretVerifier(cast(IAuthReactor, reactor), pool or Pool())


def stored(password: str, *forms: str) -> str:
    """Cheap forms of a password, in this order: "argon2", "scram", "plain"."""
    made: dict[str, Callable[[], str]] = {
        "argon2": lambda: CHEAP.hash(password),
        "scram": lambda: str(ScramSecret.derive(password, iterations=MIN_ITERATIONS)),
        "plain": lambda: "{PLAIN}" + password,
    }
    return " ".join(made[form]() for form in forms or ("argon2",))


def session(address: str | None = "192.0.2.1", *, listener: str = "submission", tls: Tls | None = None) -> Session:
    client = Client(ip_address(address) if address else None, 4711)
    return Session(id="S", client=client, listener=listener, role="outbound", hostname="gw.example", tls=tls)


def outcome_of(answer: Deferred[Any]) -> Any:
    """What it has come to by now; an exception where it failed, None where it is open."""
    found: list[Any] = []

    def take(outcome: Any) -> Any:
        found.append(outcome.value if isinstance(outcome, Failure) else outcome)
        return found[0]

    answer.addBoth(take)
    return found[0] if found else None


def failure_of(answer: Deferred[Any]) -> Exception:
    """What it has failed with."""
    error = outcome_of(answer)
    assert isinstance(error, Exception), error
    return error
