"""What looks at the security of destinations follows the configuration, and ends."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs

from mailgate.backends.questions import IBackendReactor
from mailgate.config.schema import Config
from mailgate.relay.client.terms import TermsError
from mailgate.relay.locate import Hosts, Locator
from mailgate.relay.security.office import SecurityOffice, check_authorities
from mailgate.testing import MemoryResolver, wait_for
from tests.unit.certificates import authority
from tests.unit.relaying import configuration

ZONE = {"a.test": {"MX": [[10, "mx.a.test"]]}, "mx.a.test": {"A": ["192.0.2.1"]}}


def configured(security: str = "none", **sections: Any) -> Config:
    return configuration(routes={"out": {"transport": "smtp", "security": security, "ipv6": False}}, **sections)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.reactor = MemoryReactorClock()
        self.resolver = MemoryResolver(ZONE, secure=True)
        self.locator = Locator(self.resolver, "gw.example", random.Random(1))
        self.folder = folder
        reactor = cast(IBackendReactor, self.reactor)
        self.office = SecurityOffice(folder / "mta-sts.db", self.locator, reactor=reactor, resolver=self.resolver)

    def site(self, config: Config) -> Hosts:
        found = wait_for(self.locator.hosts("out", config.routes["out"], "a.test"))  # type: ignore[arg-type]  # smtp
        assert isinstance(found, Hosts)
        return found

    def timers(self) -> int:
        return len(self.reactor.getDelayedCalls())


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path)
    yield one
    wait_for(Deferred.fromCoroutine(one.office.close()))
    assert not one.reactor.getDelayedCalls()


def test_a_configuration_that_asks_for_nothing_costs_nothing(bench: Bench) -> None:
    config = configured()
    bench.office.use(config)
    assert bench.office.security is None
    assert bench.site(config).wanted is None
    assert bench.timers() == 0
    assert not list(bench.folder.iterdir())


def test_what_is_asked_changes_with_the_configuration(bench: Bench) -> None:
    dane = configured("dane", dns={"dnssec": True})
    bench.office.use(dane)
    wanted = bench.site(dane).wanted
    assert wanted is not None
    assert (wanted.dane, bench.timers()) == (True, 0)
    bench.office.use(configured())
    assert bench.site(dane).wanted is None


def test_policies_are_kept_up_to_date_from_the_first_that_asks_for_them(bench: Bench) -> None:
    bench.office.use(configured("auto"))
    assert bench.timers() == 1
    bench.office.use(configured("mta-sts"))
    assert bench.timers() == 1


def test_other_authorities_are_another_beginning(bench: Bench) -> None:
    bench.office.use(configured("auto"))
    ca = authority().write_certificate(bench.folder / "ca.pem")
    bench.office.use(configured("auto", mta_sts={"ca": str(ca)}))
    assert bench.timers() == 1
    ca.write_text("nothing")
    with capturedLogs() as events:
        bench.office.use(configured("auto", mta_sts={"ca": str(ca), "timeout": "5s"}))
    assert any("mta_sts.ca" in str(event["log_format"]) for event in events)
    assert bench.timers() == 1


def test_a_reload_goes_on_with_what_is_being_fetched(bench: Bench) -> None:
    bench.office.use(configured("auto"))
    sts = bench.office._sts
    for section in ({"timeout": "5s"}, {"timeout": "5s", "mode": "enforce"}, {}):
        bench.office.use(configured("auto", mta_sts=section))
        assert bench.office._sts is sts
        assert sts is not None
        assert not sts._is_stopped


def test_a_file_of_authorities_that_does_not_serve_is_a_mistake_in_the_file(tmp_path: Path) -> None:
    check_authorities(configured().mta_sts, Clock())
    section = configured(mta_sts={"ca": str(tmp_path / "gone.pem")}).mta_sts
    with pytest.raises(TermsError) as caught:
        check_authorities(section, Clock())
    assert [key for key, _ in caught.value.errors] == [("mta_sts", "ca")]
