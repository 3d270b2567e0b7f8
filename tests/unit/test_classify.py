"""Of what kind replies are: those of large providers and of well-known servers, as they give them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.config.categories import CATEGORIES
from mailgate.config.rules import ReplyRules, read_rules
from mailgate.relay.giving_up import given_up
from mailgate.relay.replies.classify import Classifier
from mailgate.reply import Reply, parse_reply

CLASSIFIER = Classifier()
DATA = Path(__file__).parents[2] / "mailgate/relay/replies/data"

# What hosts say, each as it was seen or is documented; addresses and ids are made up.
SAID = [
    # Google
    (
        "no-such-user",
        "550-5.1.1 The email account that you tried to reach does not exist. Please try\n"
        "550-5.1.1 double-checking the recipient's email address for typos or\n"
        "550-5.1.1 unnecessary spaces. For more information, go to\n"
        "550 5.1.1  https://support.google.com/mail/?p=NoSuchUser a1-20020a05 - gsmtp",
    ),
    (
        "disabled",
        "550-5.2.1 The email account that you tried to reach is disabled. For more\n"
        "550 5.2.1 information, go to https://support.google.com/mail/?p=DisabledUser x - gsmtp",
    ),
    (
        "mailbox-full",
        "452-4.2.2 The recipient's inbox is out of storage space. Please direct the\n"
        "452 4.2.2 recipient to https://support.google.com/mail/?p=OverQuotaTemp x - gsmtp",
    ),
    (
        "busy-mailbox",
        "450-4.2.1 The user you are trying to contact is receiving mail at a rate that\n"
        "450 4.2.1 prevents additional messages from being delivered. x - gsmtp",
    ),
    (
        "rate-limited",
        "421-4.7.28 Gmail has detected an unusual rate of unsolicited mail originating\n"
        "421-4.7.28 from your IP address. To protect our users from spam, mail sent from\n"
        "421 4.7.28 your IP address has been temporarily rate limited. x - gsmtp",
    ),
    (
        "authentication",
        "550-5.7.26 This mail has been blocked because the sender is unauthenticated.\n"
        "550-5.7.26 Gmail requires all senders to authenticate with either SPF or DKIM.\n"
        "550 5.7.26 DKIM = did not pass x - gsmtp",
    ),
    (
        "content-spam",
        "550-5.7.1 [192.0.2.1      18] Gmail has detected that this message is likely\n"
        "550-5.7.1 unsolicited mail. To reduce the amount of spam sent to Gmail, this\n"
        "550 5.7.1 message has been blocked. x - gsmtp",
    ),
    (
        "content-virus",
        "552-5.7.0 This message was blocked because its content presents a potential\n"
        "552-5.7.0 security issue. Please visit https://support.google.com/mail/?p=BlockedMessage\n"
        "552 5.7.0 to review our message content and attachment content guidelines. x - gsmtp",
    ),
    ("too-large", "552 5.3.4 Your message exceeded Google's message size limits."),
    ("reputation", "550-5.7.25 The IP address sending this message does not have a PTR record setup, or\n550 5.7.25 x"),
    # Microsoft
    (
        "no-such-user",
        "550 5.4.1 Recipient address rejected: Access denied. [AB1EUR01FT001.eop-EUR01.prod.protection.outlook.com]",
    ),
    ("no-such-user", "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup"),
    ("no-such-user", "550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302)."),
    ("relay-denied", "550 5.7.64 TenantAttribution; Relay Access Denied [AB1.eop-EUR01.prod.protection.outlook.com]"),
    ("relay-denied", "550 5.4.1 Relay Access Denied"),
    ("rate-limited", "451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77714) [AB1.eop-EUR01]"),
    (
        "rate-limited",
        "451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation.",
    ),
    (
        "blocklist",
        "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service "
        "provider since part of their network is on our block list (S3150).",
    ),
    ("blocklist", "550 5.7.606 Access denied, banned sending IP [192.0.2.1]. To request removal from this list"),
    ("blocklist", "550 5.7.1 Service unavailable, Client host [192.0.2.1] blocked using Spamhaus. To request removal"),
    ("authentication", "550 5.7.509 Access denied, sending domain example.org does not pass DMARC verification"),
    ("mailbox-full", "554 5.2.2 mailbox full; STOREDRV.Deliver.Exception:QuotaExceededException.MapiExceptionShutoff"),
    ("busy-mailbox", "432 4.3.2 STOREDRV.Deliver; recipient thread limit exceeded"),
    ("system", "452 4.3.1 Insufficient system resources (UsedDiskSpace[C:\\Queue])"),
    ("system", "421 4.3.2 Service not active"),
    ("login", "530 5.7.57 Client not authenticated to send mail."),
    (
        "rate-limited",
        "451 4.7.230 Your Exchange server is out of date: connecting TLS certificate is throttled for a time",
    ),
    ("loop", "554 5.4.14 Hop count exceeded - possible mail loop ATTR34"),
    (
        "policy",
        "550 5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup; authentication required; Delivery restriction",
    ),
    # Yahoo, Apple, Comcast, GMX, Orange
    (
        "rate-limited",
        "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints - "
        "4.16.55.1; see https://postmaster.yahooinc.com/error-codes",
    ),
    (
        "authentication",
        "554 5.7.9 Message not accepted for policy reasons. See https://senders.yahooinc.com/error-codes",
    ),
    (
        "disabled",
        "554 delivery error: dd This user doesn't have a yahoo.com account [-5] - this account has been disabled",
    ),
    ("no-such-user", "554 delivery error: dd This user doesn't have a yahoo.com account (ann@yahoo.com) [0]"),
    ("blocklist", "554 5.7.1 [CS01] Message rejected due to local policy. Please visit https://support.apple.com/"),
    ("mailbox-full", "552 5.2.2 <ann@icloud.com>: user is over quota"),
    ("rate-limited", "421 4.1.0 192.0.2.1 Throttled - too many messages. RL000001"),
    ("reputation", "554-gmx.net (mxgmx101) Nemesis ESMTP Service not available\n554-No SMTP service\n554 Bad DNS PTR"),
    (
        "rate-limited",
        "421 mwinf5c04 ME Trop de connexions, veuillez verifier votre configuration. Too many connections OFR104_104",
    ),
    # Postfix
    ("no-such-user", "550 5.1.1 <bob@example.org>: Recipient address rejected: User unknown in local recipient table"),
    ("no-such-user", "550 5.1.1 <bob@example.org>: Recipient address rejected: User unknown in virtual mailbox table"),
    ("no-such-user", "550 5.1.1 <bob@example.org>: Recipient address rejected: undeliverable address: host mx said"),
    ("relay-denied", "554 5.7.1 <bob@example.org>: Relay access denied"),
    (
        "greylisted",
        "450 4.2.0 <bob@example.org>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/",
    ),
    ("greylisted", "450 4.3.2 Service currently unavailable"),
    ("bad-sender", "450 4.1.8 <ann@nowhere.example>: Sender address rejected: Domain not found"),
    ("bad-sender", "553 5.7.1 <ann@example.org>: Sender address rejected: not owned by user bob"),
    ("reputation", "450 4.7.25 Client host rejected: cannot find your hostname, [192.0.2.1]"),
    ("reputation", "450 4.7.1 <host>: Helo command rejected: Host not found"),
    ("blocklist", "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org; https://x"),
    ("rate-limited", "421 4.7.0 mx.example.org Error: too many connections from 192.0.2.1"),
    ("rate-limited", "450 4.7.1 Error: too much mail from 192.0.2.1"),
    ("too-large", "552 5.3.4 Message size exceeds fixed limit"),
    ("mailbox-full", "552 5.2.2 <bob@example.org>: Recipient address rejected: Mailbox is full"),
    ("system", "451 4.3.0 <bob@example.org>: Temporary lookup failure"),
    ("system", "451 4.3.0 Error: queue file write error"),
    ("system", "421 4.4.2 mx.example.org Error: timeout exceeded"),
    ("tls", "530 5.7.0 Must issue a STARTTLS command first"),
    ("authentication", "550 5.7.23 <bob@example.org>: Recipient address rejected: Message rejected due to: SPF fail"),
    ("loop", "554 5.4.6 Error: too many hops"),
    ("too-many-recipients", "452 4.5.3 Error: too many recipients"),
    ("protocol", "503 5.5.1 Error: need MAIL command"),
    ("policy", "554 5.7.1 <bob@example.org>: Recipient address rejected: Access denied"),
    # Exim
    ("no-such-user", "550 Unrouteable address"),
    ("no-such-user", "550 Unknown user"),
    ("relay-denied", "550 relay not permitted"),
    ("bad-sender", "550 Sender verify failed"),
    ("greylisted", "451 Greylisting in action, please come back later"),
    ("rate-limited", "421 Too many concurrent SMTP connections; please try again later."),
    ("too-large", "552 Message size exceeds maximum permitted"),
    ("policy", "550 Administrative prohibition"),
    ("content-virus", "550 This message contains a virus (Eicar-Test-Signature)."),
    ("bad-address", "501 <bob@@example.org>: malformed address: @example.org> may not follow <bob@"),
    ("system", "451 Temporary local problem - please try later"),
    # Dovecot, Sendmail, qmail, Cisco, Proofpoint, Mimecast, Barracuda
    ("mailbox-full", "552 5.2.2 <bob@example.org> Quota exceeded (mailbox for user is full)"),
    ("no-such-user", "550 5.1.1 <bob@example.org> User doesn't exist: bob@example.org"),
    ("no-such-user", "550 5.1.1 <bob@example.org>... User unknown"),
    ("rate-limited", "421 4.7.0 Connection rate limit exceeded."),
    ("relay-denied", "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"),
    ("no-such-user", "550 sorry, no mailbox here by that name (#5.1.1)"),
    ("rate-limited", "421 #4.4.5 Too many connections to this host."),
    (
        "reputation",
        "554-mx.example.org\n"
        "554 Your access to this mail system has been rejected due to the sending MTA's poor reputation.",
    ),
    ("reputation", "554 5.7.0 Blocked - see https://ipcheck.proofpoint.com/?ip=192.0.2.1"),
    (
        "greylisted",
        "451 Internal resource temporarily unavailable - https://community.mimecast.com/docs/DOC-1369#451 greylisting",
    ),
    ("content-spam", "554 rejected due to spam content"),
    ("too-large", "552 5.2.3 Message exceeds local size limit"),
    # By nothing but their codes
    ("mailbox-full", "452 4.2.2 Nope"),
    ("no-such-user", "550 5.1.6 Nope"),
    ("no-such-domain", "556 5.1.10 Nope"),
    ("connection", "451 4.4.9 Nope"),
    ("content", "554 5.6.3 Nope"),
    ("policy", "554 5.7.99 Nope"),
    ("protocol", "502 Nope"),
    ("login", "535 Nope"),
    ("other", "550 Nope"),
    ("policy", "554 Nope"),
]


def reply(text: str) -> Reply:
    """A reply as it comes over the wire."""
    return parse_reply([line.encode() for line in text.split("\n")])


@pytest.mark.parametrize(("category", "text"), SAID, ids=[text[:60] for _, text in SAID])
def test_what_hosts_say(category: str, text: str) -> None:
    assert CLASSIFIER.category(reply(text)) == category


@pytest.mark.parametrize(
    ("category", "finding"),
    [
        ("connection", Reply.of(451, "4.4.1", "The recipient's mail server cannot be reached")),
        ("connection", Reply.of(451, "4.4.2", "The next hop did not answer in time")),
        ("local", Reply.of(451, "4.3.5", "Our own address cannot be used now")),
        ("local", Reply.of(451, "4.3.0", "Local error in delivery")),
        ("local", Reply.of(452, "4.3.1", "The disk is full")),
        ("mailbox-full", Reply.of(452, "4.2.2", "The mailbox is full")),
        ("bad-address", Reply.of(553, "5.1.3", "No mailbox can have this name")),
        ("dns", Reply.of(451, "4.4.3", "DNS cannot say where mail for spamhaus.example goes")),
        ("dns", Reply.of(451, "4.4.4", "No address is known for the next hop")),
        ("no-such-domain", Reply.of(550, "5.1.2", "The domain quota.example does not exist")),
        ("no-such-domain", Reply.of(556, "5.1.10", "The domain takes no mail (null MX)")),
        ("loop", Reply.of(451, "4.4.6", "mail loops back to us")),
        ("expired", Reply.of(554, "5.4.7", "Delivery time expired; the last answer: 450 4.2.2 mailbox full")),
        ("tls", Reply.of(451, "4.7.5", "no TLS with mx: the handshake failed")),
        ("tls", Reply.of(550, "5.7.30", "REQUIRETLS support required")),
        ("login", Reply.of(451, "4.7.0", "no login at mx: no mechanism")),
        ("content", Reply.of(550, "5.6.7", "The next hop does not take internationalized addresses")),
        ("too-large", Reply.of(552, "5.3.4", "The message is larger than the next hop takes")),
        ("protocol", Reply.of(451, "4.5.0", "The next hop does not follow the protocol")),
        ("policy", Reply.of(550, "5.7.1", "Refused by policy")),
        ("operator", given_up("the mailbox is full, says its owner")),
    ],
)
def test_findings_of_our_own_go_by_their_codes(category: str, finding: Reply) -> None:
    assert CLASSIFIER.category(finding, ours=True) == category


def test_every_code_of_the_registry_has_a_category() -> None:
    codes = tomllib.loads((DATA / "codes.toml").read_text())
    # The last of each subject in IANA's registry: none in between is missing.
    for subject, last in enumerate((0, 10, 4, 6, 7, 6, 10, 30)):
        for detail in range(last + 1):
            assert f"{subject}.{detail}" in codes["codes"]
            for code, kind in ((450, 4), (550, 5)):
                category = CLASSIFIER.category(Reply(code, f"{kind}.{subject}.{detail}", ("",)))
                assert category == codes["codes"][f"{subject}.{detail}"]
        assert CLASSIFIER.category(Reply(550, f"5.{subject}.999", ("",))) == codes["codes"][str(subject)]
    for table in codes.values():
        assert set(table.values()) <= CATEGORIES.keys()


def test_the_built_in_rules_are_a_file_as_sites_have_it() -> None:
    rules = read_rules(DATA / "replies.toml")
    assert not rules.categories
    assert {rule.category for rule in rules.rules} <= CATEGORIES.keys()
    for rule in rules.rules:
        assert len(set(rule.replies)) == len(rule.replies)


def test_every_category_is_reached_and_explained() -> None:
    codes = tomllib.loads((DATA / "codes.toml").read_text())
    reached = {category for table in codes.values() for category in table.values()}
    reached |= {rule.category for rule in read_rules(DATA / "replies.toml").rules}
    assert reached == CATEGORIES.keys()
    assert all(CATEGORIES.values())


def test_a_sites_own_rules_come_first() -> None:
    own = ReplyRules.model_validate(
        {
            "categories": {"contract": "the customer has not paid"},
            "rules": [
                {"category": "contract", "replies": ["550 5.7.1 contract *ended"]},
                {"category": "greylisted", "replies": ["5.1.1 come back"]},
            ],
        }
    )
    classifier = Classifier(own)
    assert classifier.category(reply("550 5.7.1 The contract of this mailbox has ended")) == "contract"
    assert classifier.category(reply("550 5.1.1 user unknown: come  BACK later")) == "greylisted"
    assert classifier.category(reply("550 5.1.1 user unknown")) == "no-such-user"


def test_nobody_is_judged_by_his_name() -> None:
    assert (
        CLASSIFIER.category(reply("550 <mailbox.full@virus.example> is unknown to dns: no such user")) == "no-such-user"
    )
    assert CLASSIFIER.category(reply("450 4.1.4 spamhaus@example.org")) == "bad-address"


@given(st.integers(400, 559).filter(lambda code: code // 10 % 10 <= 5), st.text(max_size=300), st.booleans())
def test_whatever_is_said_has_a_category(code: int, text: str, ours: bool) -> None:
    assert CLASSIFIER.category(Reply.of(code, "", text), ours=ours) in CATEGORIES


@pytest.mark.parametrize("piece", ["a", "a ", "over ", "@", "user unknow ", "- _", "\0", "x" * 50 + "@"])
def test_what_is_said_at_length_is_looked_at_in_part(piece: str) -> None:
    short, long = Reply.of(554, "5.7.1", piece * 10), Reply.of(554, "5.7.1", f"{piece * 100_000} quota exceeded")
    assert CLASSIFIER.category(long) == CLASSIFIER.category(short)
