"""What is learnt about senders, accounts and recipients from their mail."""

from __future__ import annotations

from mailgate.events.base import Event

__all__ = [
    "AccountSuspected",
    "BouncedBack",
    "Complained",
    "DmarcEvaluated",
    "LimitNear",
    "Suppressed",
    "SuppressionsImported",
    "Unsubscribed",
    "Unsuppressed",
    "WebhookChanged",
    "WebhookDropped",
]


class DmarcEvaluated(Event, frozen=True, kw_only=True):
    """DMARC was evaluated for a message whose author's domain publishes a policy: what aggregate reports are made of.

    `domain` is the one whose record was found, with its p, sp, np, adkim, aspf, t and rua; `envelope_to` are the
    domains of the recipients. `disposition` ("none", "quarantine" or "reject") is what was done, `override` why that is
    not what was asked ("local_policy", "mailing_list", "trusted_forwarder"; by the record itself "policy_test_mode" and
    "sampled_out"), `comment` in words. `dkim` holds domain, selector and result of each signature, `spf` domain, scope
    ("mfrom" or "helo") and result; `aligned` which of "dkim" and "spf" passed in alignment.
    """

    queue_id: str
    source: str
    domain: str
    policy: str
    subdomain_policy: str
    missing_policy: str
    header_from: str
    envelope_from: str
    envelope_to: tuple[str, ...]
    disposition: str
    result: str
    strict_dkim: bool = False
    strict_spf: bool = False
    is_testing: bool = False
    rua: tuple[str, ...] = ()
    override: str = ""
    comment: str = ""
    aligned: tuple[str, ...] = ()
    dkim: tuple[tuple[str, str, str], ...] = ()
    spf: tuple[str, str, str] = ("", "", "")


class LimitNear(Event, frozen=True, kw_only=True):
    """Somebody has used up most of a limit, or all of it (`is_reached`).

    `subject` is whose count it is ("ann@example.org"), `rule` what is counted ("messages per identity"), `until` when
    it begins anew, `filter` the kind of filter. `notify` are the addresses that are told by mail.
    """

    filter: str
    rule: str
    subject: str
    count: int
    limit: int
    window: float
    until: float
    is_reached: bool = False
    session: str = ""
    queue_id: str = ""
    notify: tuple[str, ...] = ()


class AccountSuspected(Event, frozen=True, kw_only=True):
    """An account, `user`, sends as if somebody else had its password, or does so no more (`action` "release").

    `signals` say what speaks for it, with numbers ("networks 12 in 1h, limit 5"); `action` is what is done from now on:
    "notify", "slow", "quarantine" or "refuse"; `until` when that ends by itself. `notify` as in LimitNear. `by` says
    who has released it, "" where it was the configuration.
    """

    user: str
    signals: tuple[str, ...]
    action: str
    until: float = 0.0
    session: str = ""
    queue_id: str = ""
    notify: tuple[str, ...] = ()
    by: str = ""


class BouncedBack(Event, frozen=True, kw_only=True):
    """A report about mail of ours came back, after a next hop had taken it: it did not get to `recipient`.

    `proof` says why that is believed ("verp", "token", "batv", "reporter"). `status` is the enhanced status code of the
    report, "" where it has none, and `category` as in Bounced; `is_permanent` tells a failure for good from one that
    may pass. `queue_id` and `message_id` name the mail as the report does, who may err. `report` is the id of the
    report itself.
    """

    recipient: str
    sender: str
    proof: str
    is_permanent: bool
    category: str
    status: str = ""
    reason: str = ""
    queue_id: str = ""
    message_id: str = ""
    stream: str = ""
    report: str = ""


class Complained(Event, frozen=True, kw_only=True):
    """A recipient has called mail of ours spam, and the provider says so (RFC 5965).

    `kind` is the report's Feedback-Type ("abuse"), `reporter` the program that made it; the rest as in BouncedBack.
    """

    recipient: str
    sender: str
    proof: str
    kind: str = "abuse"
    reporter: str = ""
    queue_id: str = ""
    message_id: str = ""
    stream: str = ""
    report: str = ""


class Unsubscribed(Event, frozen=True, kw_only=True):
    """A recipient wants no more mail of a sender, or of the sender's stream, by a link of ours (RFC 8058)."""

    recipient: str
    sender: str
    stream: str = ""


class Suppressed(Event, frozen=True, kw_only=True):
    """An address, or "@domain", gets no more mail of ours: `scope` is a stream or a sender, "" for all; `reason`,
    `detail` and `until` as in Suppression. `by` says who has put it on the list, "" where it was the gateway itself."""

    recipient: str
    scope: str
    reason: str
    detail: str = ""
    queue_id: str = ""
    until: float = 0.0
    by: str = ""


class Unsuppressed(Event, frozen=True, kw_only=True):
    """Somebody, `by`, has taken an address off the list, where it stood for `scope` because of `reason`."""

    recipient: str
    scope: str
    reason: str
    by: str = ""


class SuppressionsImported(Event, frozen=True, kw_only=True):
    """So many addresses have come on the list together, too many for an event each."""

    count: int
    by: str = ""


class WebhookChanged(Event, frozen=True, kw_only=True):
    """A webhook does not take what it is sent (`is_failing`, with the private `reason`), or takes it again."""

    webhook: str
    is_failing: bool
    reason: str = ""


class WebhookDropped(Event, frozen=True, kw_only=True):
    """So many events will never be sent to a webhook: `reason` is "size", "age", "slow disk" or "removed"."""

    webhook: str
    count: int
    reason: str
