"""`kill -9` of a gateway that stands beside a real Postfix, before its queue and behind it, while mail flows.

Asserted of each mail: every recipient of one that was acknowledged has it; and none has it more often than once, and
once more for each time that its end was sent and no 250 came back, after which SMTP has the sender try again (RFC 5321
section 6.1). Nothing is left waiting.
"""

from __future__ import annotations

import re
import signal
import smtplib
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from parts import folder, wait_until
from postfix_ways import DOMAIN, Site, site_of

pytestmark = pytest.mark.needs("postfix", "root")

PEOPLE = ("bob", "ann")
CLIENTS, KILLS = 6, 2
#: Seconds that each client rests between two mails: what Postfix takes without the gateway is to be done with soon.
REST = 0.2
#: How many of Postfix's may send to the gateway at one time, by the snippet for after the queue.
PROCESSES = 20
#: Postfix's own word for an end of data that was sent, and had no answer.
MAY_BE_TWICE = "message may be sent more than once"
IMPATIENT = {"minimal_backoff_time": "1s", "maximal_backoff_time": "2s", "queue_run_delay": "1s"}


@dataclass
class Load:
    """Clients that send one mail after another, each as often as it takes until it is acknowledged."""

    site: Site
    queue_ids: dict[int, str] = field(default_factory=dict)  # of the mails that were acknowledged, by their numbers
    unanswered: Counter[int] = field(default_factory=Counter)  # how often the end of one was sent without a 250
    over: threading.Event = field(default_factory=threading.Event)

    def run(self, first: int) -> None:
        number = first
        while not self.over.is_set():
            while number not in self.queue_ids:
                try:
                    with self.site.client() as client:
                        self._send(client, number)
                except (OSError, smtplib.SMTPException):
                    self.over.wait(0.1)
            number += CLIENTS
            self.over.wait(REST)

    def _send(self, client: smtplib.SMTP, number: int) -> None:
        said = [client.mail("eve@client.test"), *(client.rcpt(f"{one}@{DOMAIN}") for one in PEOPLE)]
        if any(code != 250 for code, _ in said) or client.docmd("DATA")[0] != 354:
            return
        code, text = 0, b""
        self.unanswered[number] += 1
        client.send(b"From: <eve@client.test>\r\nSubject: %d\r\n\r\nHello\r\n.\r\n" % number)
        code, text = client.getreply()
        if code == 250:
            self.unanswered[number] -= 1
            self.queue_ids[number] = text.decode().rpartition("queued as ")[2].split()[0]

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """In between, mail flows; then each client ends with the mail that it has begun."""
        threads = [threading.Thread(target=self.run, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in threads:
                thread.join()

    def more(self, number: int = 10) -> None:
        """Wait until so many more are acknowledged."""
        before = len(self.queue_ids)
        wait_until(lambda: len(self.queue_ids) >= before + number, "mail flows", 60)


def copies(site: Site, user: str) -> Counter[int]:
    """How often each mail is in a box."""
    found = (re.search(rb"\r\nSubject: (?:\[EXTERNAL\] )?(\d+)\r\n", mail) for mail in site.mails(user))
    return Counter(int(one[1]) for one in found if one is not None)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("way", ["before-queue", "after-queue"])
def test_kill_9_loses_nothing_and_doubles_only_what_had_no_answer(way: str) -> None:
    with folder("way") as base, site_of(way, base, settings=IMPATIENT) as site:
        load = Load(site)
        with load.flowing():
            for _ in range(KILLS):
                load.more()
                site.gateway.stop(signal.SIGKILL)
                if way == "after-queue":
                    load.more()  # Postfix takes mail all the same, which waits there
                site.gateway.start()
            load.more()

        def all_is_done() -> bool:
            return all(load.queue_ids.keys() <= copies(site, user).keys() for user in PEOPLE) and site.is_idle()

        wait_until(all_is_done, "all that was acknowledged is in its boxes, and nothing waits", 60)
        lines = [line for line in site.postfix.log.read_text().splitlines() if MAY_BE_TWICE in line]
        for user in PEOPLE:
            found = copies(site, user)
            assert found.keys() == load.queue_ids.keys()
            for number, ident in load.queue_ids.items():
                again = sum(f" {ident}: " in line and f"<{user}@" in line for line in lines)
                assert found[number] <= 1 + load.unanswered[number] + again, (number, user)
        # And those are no more than were under way when the gateway was killed.
        assert load.unanswered.total() <= KILLS * CLIENTS * (way == "before-queue")
        assert len(lines) <= KILLS * len(PEOPLE) * PROCESSES * (way == "after-queue")
