"""The ways to put mailgate beside a real Postfix, by the snippets in etc/postfix: mail arrives once, Postfix's log has
the true client, who refuses does so at the right stage, and both logs tell of the same mail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts import folder, wait_until
from postfix_ways import DOMAIN, Site, site_of

pytestmark = pytest.mark.needs("postfix", "root")

BOB, ANN, EVE = (f"{name}@{DOMAIN}" for name in ("bob", "ann", "eve"))
PROGRAM = 'MIME-Version: 1.0\r\nContent-Type: application/octet-stream; name="setup.exe"\r\n'
DSN = ["NOTIFY=SUCCESS", f"ORCPT=rfc822;{BOB}"]


def body_of(mail: bytes) -> bytes:
    return mail.partition(b"\r\n\r\n")[2]


def received(mail: bytes) -> list[str]:
    """The Received fields, the newest first, each on one line."""
    head = mail.partition(b"\r\n\r\n")[0].decode().replace("\r\n\t", " ").replace("\r\n ", " ")
    return [line for line in head.split("\r\n") if line.startswith("Received:")]


def assert_one_report_of_success(site: Site, sender: str, envid: str) -> None:
    """That Postfix has told the sender once, in the words that the client has used, and nobody else did."""
    user = sender.partition("@")[0]
    wait_until(lambda: bool(site.reports(user, envid)), f"{sender} is told of {envid}")
    wait_until(site.is_idle, "all is done")
    (report,) = site.reports(user, envid)
    assert f"Original-Envelope-Id: {envid}".encode() in report
    assert f"Original-Recipient: rfc822;{BOB}".encode().lower() in report.lower()
    assert b"Action: delivered" in report


def send_with_dsn(site: Site, envid: str) -> None:
    _, content = site.content()
    with site.client() as client:
        assert client.mail(ANN, ["RET=HDRS", f"ENVID={envid}"])[0] == 250
        assert client.rcpt(BOB, DSN)[0] == 250
        assert client.data(content)[0] == 250


# -- mailgate has port 25: XCLIENT and PROXY


@pytest.fixture(scope="module", params=["xclient", "proxy"])
def front(request: pytest.FixtureRequest) -> Iterator[Site]:
    with folder("way") as base, site_of(request.param, base) as site:
        yield site


def test_in_front_mail_arrives_and_postfix_sees_the_client(front: Site) -> None:
    ident, said = front.send(BOB)
    found = re.search(r"queued as (\w+) \((\w{16})\)", said)
    assert found is not None, said
    mail = front.mail("bob", ident)
    assert body_of(mail) == b"Hello\r\n.\r\n..dots\r\n"
    # The greeting is in the first Received field in any case; XCLIENT tells Postfix of it, too.
    assert "(unknown [127.0.0.88]) by mx.example.org (Postfix)" in received(mail)[0]
    assert received(mail)[1].startswith("Received: from helo.client.test (")
    assert f"with ESMTP id {found[2]}" in received(mail)[1]
    front.log_line(f"{found[1]}: client=unknown[127.0.0.88]")
    assert found[2] in front.why(found[1], "accepted from unknown[127.0.0.88]", f"queued as {found[1]}")


def test_in_front_postfix_refuses_recipients_and_clients_at_rcpt(front: Site) -> None:
    ident, content = front.content()
    with front.client() as client:
        client.mail("ann@client.test")
        assert client.rcpt(BOB)[0] == 250
        code, said = client.rcpt(f"nobody@{DOMAIN}")
        assert (code, b"User unknown" in said) == (550, True)
        code, said = client.rcpt(f"closed@{DOMAIN}")
        assert (code, b"This address is closed" in said) == (550, True)
        assert client.rcpt("ann@elsewhere.test")[0] == 550
        assert client.data(content)[0] == 250
    front.mail("bob", ident)
    front.log_line("reject: RCPT from unknown[127.0.0.88]: 550 5.1.1", f"to=<nobody@{DOMAIN}>")
    with front.client("127.0.0.89") as client:
        client.mail("ann@client.test")
        code, said = client.rcpt(BOB)
        assert (code, b"Client host rejected" in said) == (554, True)
    front.log_line("reject: RCPT from unknown[127.0.0.89]: 554 5.7.1")


def test_in_front_senders_and_content_are_refused_at_their_stage(front: Site) -> None:
    with front.client() as client:
        client.mail("bad@client.test")
        code, said = client.rcpt(BOB)
        assert (code, b"No such sender" in said) == (550, True)
    for how in ({"more": PROGRAM}, {"subject": "not here"}):
        ident, content = front.content(**how)
        with front.client() as client:
            client.mail("ann@client.test")
            client.rcpt(BOB)
            code, said = client.data(content)
        assert code == 550, said
        assert (b"Postfix does not want it" in said) == ("subject" in how)
        assert front.count("bob", ident) == 0
    wait_until(front.is_idle, "nothing waits")


def test_in_front_what_a_sender_wants_to_be_told_reaches_postfix(front: Site) -> None:
    send_with_dsn(front, "order-1")
    assert_one_report_of_success(front, ANN, "order-1")


def test_in_front_aliases_are_postfixs(front: Site) -> None:
    ident, _ = front.send(f"team@{DOMAIN}")
    front.mail("eve", ident)
    wait_until(front.is_idle, "all is done")
    assert (front.count("bob", ident), front.count("eve", ident)) == (1, 1)


def test_in_front_a_postfix_that_is_down_costs_no_mail(front: Site) -> None:
    front.postfix.stop()
    try:
        with front.client() as client:
            client.mail("ann@client.test")
            assert client.rcpt(BOB)[0] == 451
    finally:
        front.postfix.start()
    wait_until(lambda: front.takes(BOB), "Postfix is asked again")
    ident, _ = front.send(BOB)
    front.mail("bob", ident)


def test_a_postfix_that_does_not_believe_the_gateway_gets_no_mail_in_its_name(base: Path) -> None:
    others = {"smtpd_authorized_xclient_hosts=127.0.0.1": "smtpd_authorized_xclient_hosts=127.0.0.2"}
    with site_of("xclient", base, others) as site:
        with site.client() as client:
            client.mail("ann@client.test")
            assert client.rcpt(BOB)[0] == 451
        site.why(BOB, "does not offer XCLIENT", "smtpd_authorized_xclient_hosts")


def test_mail_that_postfix_sends_back_to_the_gateway_ends_with_one_report() -> None:
    with folder("way") as base:
        (base / "transport").write_text("loop.test smtp:[127.0.0.1]:@FRONT@\n")
        settings = {"relay_domains": "loop.test", "transport_maps": f"texthash:{base}/transport"}
        loop = '\n[domains."loop.test"]\nroute = "postfix"\nrecipients = "any"\n'
        with site_of("xclient", base, settings=settings, more=loop) as site:
            (base / "transport").write_text(f"loop.test smtp:[127.0.0.1]:{site.port}\n")
            site.tool("postfix", "reload")
            ident, _ = site.send("bob@loop.test", sender=ANN)
            wait_until(lambda: bool(site.reports("ann", ident)), "the sender is told", 60)
            wait_until(site.is_idle, "all is done", 60)
            (report,) = site.reports("ann", ident)
            assert b"too many hops" in report.lower()


# -- Postfix has port 25: before the queue


@pytest.fixture(scope="module")
def before() -> Iterator[Site]:
    with folder("way") as base, site_of("before-queue", base, settings={"always_bcc": f"archive@{DOMAIN}"}) as site:
        yield site


def test_before_the_queue_mail_arrives_and_postfix_notes_the_client(before: Site) -> None:
    ident, said = before.send(BOB)
    found = re.search(r"queued as (\w+) \((\w{16})\)", said)
    assert found is not None, said
    mail = before.mail("bob", ident)
    assert body_of(mail) == b"Hello\r\n.\r\n..dots\r\n"
    assert "from helo.client.test (unknown [127.0.0.88])" in received(mail)[-1]
    before.log_line(f"{found[1]}: client=", f"orig_queue_id={found[2]}", "orig_client=unknown[127.0.0.88]")
    told = before.why(found[1], "has it from unknown[127.0.0.88]", f"queued as {found[1]}")
    assert told.startswith(found[2])
    assert before.why("127.0.0.88", found[2])


def test_before_the_queue_each_refuses_at_its_stage(before: Site) -> None:
    ident, content = before.content()
    with before.client() as client:
        client.mail("bad@client.test")
        code, said = client.rcpt(BOB)
        assert (code, b"No such sender" in said) == (550, True)
        client.rset()
        assert client.mail("ann@client.test")[0] == 250
        assert client.rcpt(BOB)[0] == 250
        code, said = client.rcpt(f"nobody@{DOMAIN}")
        assert (code, b"User unknown" in said) == (550, True)
        code, said = client.rcpt(f"closed@{DOMAIN}")
        assert (code, b"This address is closed" in said) == (550, True)
        assert client.rcpt("ann@elsewhere.test")[0] // 100 in (4, 5)
        assert client.data(content)[0] == 250
    before.mail("bob", ident)
    before.log_line(f'rejected "rcpt TO:<closed@{DOMAIN}>"', "This address is closed")
    with before.client("127.0.0.89") as client:
        client.mail("ann@client.test")
        assert client.rcpt(BOB)[0] == 554


def test_before_the_queue_the_client_is_judged_that_came_to_postfix(before: Site) -> None:
    with before.client("127.0.0.66") as client:
        client.mail("ann@client.test")
        code, said = client.rcpt(BOB)
        assert (code, b"No mail from there" in said) == (550, True)
    told = before.why(
        "127.0.0.66", "refused at rcpt by filter access", "in front of us has it from unknown[127.0.0.66]"
    )
    assert "No mail from there" in told


def test_before_the_queue_content_is_refused_while_the_client_waits(before: Site) -> None:
    for how in ({"more": PROGRAM}, {"subject": "not here"}):
        ident, content = before.content(**how)
        with before.client() as client:
            client.mail(EVE)
            client.rcpt(BOB)
            code, said = client.data(content)
        assert code == 550, said
        before.log_line("proxy-reject: END-OF-MESSAGE: 550", f"from=<{EVE}>")
        assert before.count("bob", ident) == 0
    wait_until(before.is_idle, "nothing waits")
    assert not before.reports("eve", "")


def test_before_the_queue_aliases_and_copies_are_made_once(before: Site) -> None:
    ident, _ = before.send(f"team@{DOMAIN}", f"copied@{DOMAIN}")
    before.mail("archive", ident)
    wait_until(before.is_idle, "all is done")
    # Postfix takes "eve, whom team stands for" and "eve, whom copied stands for" for two recipients.
    assert [before.count(user, ident) for user in ("bob", "copied", "eve", "archive")] == [1, 1, 2, 1]


def test_before_the_queue_what_a_sender_wants_to_be_told_goes_through(before: Site) -> None:
    send_with_dsn(before, "order-2")
    assert_one_report_of_success(before, ANN, "order-2")


def test_before_the_queue_chunks_are_taken(before: Site) -> None:
    ident, content = before.content()
    with before.client() as client:
        client.mail("ann@client.test")
        client.rcpt(BOB)
        client.send(b"BDAT %d LAST\r\n%s" % (len(content), content))
        assert client.getreply()[0] == 250
    assert body_of(before.mail("bob", ident)) == b"Hello\r\n.\r\n..dots\r\n"


def test_before_the_queue_a_gateway_that_is_down_costs_no_mail(before: Site) -> None:
    before.gateway.stop()
    try:
        with before.client() as client:
            code = client.mail("ann@client.test")[0]
            assert (code if code != 250 else client.rcpt(BOB)[0]) // 100 == 4
    finally:
        before.gateway.start()
    ident, _ = before.send(BOB)
    before.mail("bob", ident)


# -- Postfix has port 25: after the queue


@pytest.fixture(scope="module")
def after() -> Iterator[Site]:
    with folder("way") as base, site_of("after-queue", base, settings={"always_bcc": f"archive@{DOMAIN}"}) as site:
        yield site


def queued(said: str) -> str:
    """The queue id in a reply of Postfix's."""
    return said.rpartition("queued as ")[2]


def test_after_the_queue_mail_arrives_and_all_ids_are_joined(after: Site) -> None:
    ident, said = after.send(BOB)
    first = queued(said)
    mail = after.mail("bob", ident)
    assert body_of(mail) == b"Hello\r\n.\r\n..dots\r\n"
    assert "from helo.client.test (unknown [127.0.0.88])" in received(mail)[-1]
    assert "from mx.example.org (unknown [127.0.0.1]) by mx1.example.org (mailgate)" in received(mail)[1]
    after.log_line(f"{first}: client=unknown[127.0.0.88]")
    line = after.log_line(f"{first}: to=<{BOB}>", "relay=127.0.0.1", "status=sent (250 2.0.0 Ok: queued as")
    found = re.search(r"queued as (\w+) \((\w{16})\)", line)
    assert found is not None, line
    after.log_line(f"{found[1]}: client=", f"orig_queue_id={found[2]}", "orig_client=unknown[127.0.0.88]")
    for one in (first, found[1], "127.0.0.88"):
        told = after.why(one, f"has it as {first}", "has it from unknown[127.0.0.88]", f"queued as {found[1]}")
        assert found[2] in told


def test_after_the_queue_filters_know_who_is_a_stranger(after: Site) -> None:
    subjects = []
    for source in ("127.0.0.88", "127.0.0.1"):
        ident, content = after.content(subject="hello")
        with after.client(source) as client:
            client.sendmail("ann@client.test", BOB, content)
        mail = after.mail("bob", ident)
        subjects += [line for line in mail.split(b"\r\n") if line.startswith(b"Subject:")]
    assert subjects == [b"Subject: [EXTERNAL] hello", b"Subject: hello"]


def test_after_the_queue_aliases_and_copies_are_made_once(after: Site) -> None:
    ident, _ = after.send(f"copied@{DOMAIN}")
    after.mail("archive", ident)
    wait_until(after.is_idle, "all is done")
    assert [after.count(user, ident) for user in ("copied", "eve", "archive")] == [1, 1, 1]


def test_after_the_queue_what_is_kept_back_goes_on_when_it_is_released(after: Site) -> None:
    ident, said = after.send(BOB, more=PROGRAM)
    line = after.log_line(f"{queued(said)}: to=<{BOB}>", "status=sent (250 2.0.0 queued as ")
    kept = line.rpartition("queued as ")[2].rstrip(")")
    assert kept in after.gateway.command("quarantine", "list").stdout
    assert after.count("bob", ident) == 0
    after.gateway.command("quarantine", "release", kept)
    after.mail("bob", ident)
    after.log_line(f"orig_queue_id={kept}", "orig_client=unknown[127.0.0.88]")


def test_after_the_queue_what_a_sender_wants_to_be_told_goes_through(after: Site) -> None:
    send_with_dsn(after, "order-3")
    assert_one_report_of_success(after, ANN, "order-3")


def test_after_the_queue_mail_waits_for_a_gateway_that_is_down(after: Site) -> None:
    after.gateway.stop()
    try:
        ident, said = after.send(BOB)
        after.log_line(f"{queued(said)}: to=<{BOB}>", "status=deferred", "Connection refused")
    finally:
        after.gateway.start()
    after.tool("postqueue", "-f")
    after.mail("bob", ident)
    wait_until(after.is_idle, "all is done")
    assert after.count("bob", ident) == 1


def test_after_the_queue_a_way_back_that_asks_again_ends_with_one_report(base: Path) -> None:
    with site_of("after-queue", base, {"  -o content_filter=\n": ""}) as site:
        ident, _ = site.send(BOB, sender=ANN)
        wait_until(lambda: bool(site.reports("ann", ident)), "the sender is told", 90)
        wait_until(site.is_idle, "all is done", 60)
        assert len(site.reports("ann", ident)) == 1
        assert site.count("bob", ident) == 0
