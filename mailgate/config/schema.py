"""Every section of the configuration as a frozen class; the text under each field is its reference.

Durations are seconds and sizes octets once they are read. A default is what a careful administrator would
choose. References between sections (a pipeline's name, a route's name) are checked in `mailgate.config.load`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from mailgate.config.aliases import AliasSection, ForwardingSection
from mailgate.config.auth import AuthSection
from mailgate.config.http import HttpSection
from mailgate.config.mta import MilterSection, PolicySection, SocketmapSection
from mailgate.config.quarantine import QuarantineSection
from mailgate.config.recipients import ListRecipients, RecipientsSection, Sources
from mailgate.config.rehearsal import RehearsalSection
from mailgate.config.reports import ReportsSection, TlsReportsSection
from mailgate.config.routes import DiscardRoute, LmtpRoute, MaildirRoute, RetrySection, Route, SmtpRoute
from mailgate.config.section import Section
from mailgate.config.security import MtaStsSection, TlsPolicySection
from mailgate.config.senders import SenderSection
from mailgate.config.shaping import (
    BouncesSection,
    PoolSection,
    ShapingSection,
    SlowDownSection,
    SourceSection,
    WarmUpSection,
)
from mailgate.config.units import ConfigPath, Duration, Size, Timeout, at_least, format_size
from mailgate.config.values import (
    Count,
    Domain,
    Endpoint,
    Filters,
    Fingerprint,
    Flag,
    Hostname,
    Keyword,
    Mechanism,
    Name,
    Network,
    OneMailbox,
    Pattern,
    Server,
)
from mailgate.config.webhooks import WebhookSection
from mailgate.config.whom import Whom

__all__ = [
    "AliasSection",
    "AuthSection",
    "BouncesSection",
    "Config",
    "CountersSection",
    "DiscardRoute",
    "DnsSection",
    "DomainSection",
    "FilterCommon",
    "FilterSection",
    "ForwardingSection",
    "GatewaySection",
    "HistorySection",
    "ListRecipients",
    "ListenerSection",
    "LmtpRoute",
    "LogSection",
    "MaildirRoute",
    "MilterSection",
    "Network",
    "PipelineSection",
    "PoolSection",
    "QuarantineSection",
    "RecipientsSection",
    "ReportsSection",
    "RetrySection",
    "Route",
    "RoutingSection",
    "Section",
    "ShapingSection",
    "SlowDownSection",
    "SmtpRoute",
    "SourceSection",
    "SpoolSection",
    "TlsSection",
    "WarmUpSection",
]


class GatewaySection(Section):
    """`[gateway]`: who we are and where our state lies."""

    hostname: Hostname
    """our name in banners, EHLO, Received and reports: the one that our address's PTR record gives"""
    state_dir: ConfigPath
    """spool, history, log and control socket lie here; made with mode 0700 if it does not exist"""
    workers: Annotated[int, Field(strict=True, ge=1, le=64)] = 1
    """processes that accept and deliver, which share ports, spool and limits: one for each processor, at most"""
    drain_timeout: Duration = 30.0
    """how long a stop waits for sessions and deliveries that are under way; what is cut off then stays in the spool"""
    memory_limit: Size = 256 * 1024
    """content up to this size stays in memory while it is received; larger content goes to a file"""
    memory_ceiling: Annotated[Size, at_least(1024**2, format_size)] = 64 * 1024**2
    """content that all sessions together keep in memory while it is received; above it all content goes to files"""
    sign_with: Name | None = None
    """the filter of kind dkim-sign whose keys sign what we write ourselves: reports about mail that could not be
    delivered, notices, digests of the quarantine, and reports of [reports] and [tls_reports] that have no `dkim` of
    their own. Reports and notices come from addresses at `hostname`: that domain must have keys there, or one above"""


class ListenerSection(Section):
    """`[[listeners]]`: where we accept mail, from whom, and through which pipeline."""

    name: Name
    """how the log, limits and the history call this listener"""
    role: Literal["inbound", "outbound", "hybrid"] = "inbound"
    """inbound: for our [domains] only, never relays; outbound: for nobody but those who may relay; hybrid: inbound
    for anyone, outbound for those who may relay"""
    endpoints: list[Endpoint] = Field(min_length=1)
    """where to listen, as Twisted endpoint strings: "tcp:25" (all IPv4 addresses), "tcp6:25" (all of IPv6 and IPv4),
    "tcp:25:interface=192.0.2.10", "unix:/run/mailgate/in:mode=660" """
    pipeline: Name
    """the [pipelines.NAME] that judges what comes in here"""
    trusted_pipeline: Name | None = None
    """role hybrid: the pipeline of clients that may relay; the same as `pipeline` if not given"""
    protocol: Literal["smtp", "lmtp"] = "smtp"
    """lmtp (RFC 2033) answers for each recipient after the content: for programs that hand mail to us, not for the
    Internet"""
    trusted_networks: list[Network] = []
    """clients that may relay (role outbound or hybrid): to anyone, in our name. Who connects by a unix socket always
    may"""
    tls: Literal["off", "optional", "required", "implicit"] | None = None
    """off: no TLS; optional: STARTTLS is offered; required: no mail before STARTTLS; implicit: TLS from the first octet
    (port 465). If not given: optional where [tls] has a certificate, else off"""
    client_certificates: Literal["none", "request", "require"] = "none"
    """whether clients are asked for a certificate, by the authorities of tls.client_ca or the fingerprints of
    tls.client_fingerprints; require refuses the others"""
    auth: Name | None = None
    """the [auth.NAME] that checks AUTH; role outbound then takes mail from nobody else but trusted_networks"""
    auth_mechanisms: list[Mechanism] = [
        "scram-sha-256-plus",
        "scram-sha-256",
        "plain",
        "login",
        "xoauth2",
        "oauthbearer",
    ]
    """what AUTH offers, as far as `auth` can check it; others are cram-md5 and external (with client_certificates).
    Those that show the password are offered under TLS only"""
    auth_without_tls: Flag = False
    """whether passwords may come in clear text: for devices that know no TLS, on a network that nobody else can read"""
    max_auth_failures: Count = 3
    """wrong secrets per connection, each answered after a growing delay; after them 421"""
    max_auth_failures_per_client: Count = 20
    """wrong secrets per hour from one address (IPv6: one /64); after them AUTH gets 454, right or wrong"""
    proxy_protocol_from: list[Network] = []
    """balancers (haproxy, nginx) that begin each connection with a PROXY header, v1 or v2; who else connects is taken
    for a client"""
    xclient_from: list[Network] = []
    """systems in front of us that may tell by XCLIENT who the client is"""
    xforward_from: list[Network] = []
    """systems in front of us that may tell by XFORWARD where a message came from, for the history and the next hop"""
    judge_origin: Flag = False
    """whether filters judge the client that XFORWARD names, and not who is connected, as behind a mail server that uses
    us as its content filter. Of trusted_networks are then clients of that mail server, which get `trusted_pipeline`;
    who may relay stays with who is connected"""
    hide: list[Keyword] = []
    """extensions that are not offered here, for clients that cannot cope with them"""
    bare_newlines: Literal["reject", "normalize"] = "reject"
    """content with a CR or LF that stands alone: reject (550), or normalize to CR LF. It never ends content, and is
    never sent on"""
    max_hold: Duration = 7 * 86400.0
    """how far ahead a message may ask to be sent (FUTURERELEASE); 0 offers it to nobody. Role outbound or hybrid"""
    max_message_size: Annotated[Size, at_least(64 * 1024, format_size)] = 50 * 1024 * 1024
    """larger messages are refused with 552; announced with SIZE (RFC 5321: at least 64KiB)"""
    size_of: list[Name] = []
    """routes whose next hops decide, too, only routes with fixed `hosts`: what the smallest of them takes by its EHLO,
    less 16KiB for our own fields, is announced where it is less than max_message_size. It is learnt with each
    connection to them, not known before the first one after a start, and what was learnt is forgotten after a day"""
    max_recipients: Annotated[int, Field(strict=True, ge=100)] = 1000
    """recipients per message; more get 452, and senders bring them again (RFC 5321 asks for at least 100)"""
    max_connections: Count = 2000
    """connections at one time; more get 421"""
    max_connections_per_client: Count = 50
    """connections at one time from one address (IPv6: one /64); more get 421"""
    max_messages: Count = 1000
    """messages per connection; after them 421, and senders connect again"""
    max_errors: Count = 20
    """commands and messages refused per connection, unknown recipients too; after them 421"""
    max_commands: Annotated[int, Field(strict=True, ge=10)] = 100
    """commands, other than RCPT and DATA, without a message between them; after them 421"""
    resolve_clients: Flag = True
    """whether the client's name is looked up in DNS, and confirmed, before the banner (never for loopback): for the
    history, the Received field and rules about names"""
    command_timeout: Timeout = 300.0
    """how long we wait for the next command (RFC 5321: at least 5 minutes)"""
    refused_for_some: Literal["quarantine", "report"] = "quarantine"
    """SMTP has one answer for all recipients of a message. One that is refused for some and taken for others goes into
    quarantine for the former, or (report) its sender gets a report, who is likely forged in mail from strangers.
    Clients that may relay or have logged in get a report in any case, and LMTP has an answer for each"""
    data_timeout: Timeout = 180.0
    """how long we wait for the next piece of content (RFC 5321: at least 3 minutes)"""
    session_timeout: Timeout = 3600.0
    """how long a session may last that keeps within the other limits"""
    stress_timeout: Timeout = 10.0
    """how long we wait for a command or content while the listener is under stress: with nine tenths of max_connections
    open"""
    rehearse: Flag = False
    """whether what comes in here are copies of mail that another gateway handles: they are judged, and go nowhere (see
    [rehearsal])"""


class TlsSection(Section):
    """`[tls]`: our certificates, and those that clients show."""

    certificate: ConfigPath | None = None
    """a PEM file with certificate, chain and key, or a directory of such files (also NAME.crt with NAME.key, and
    NAME/fullchain.pem with NAME/privkey.pem): chosen by the name that the client asks for, and read again when it
    changes"""
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    """the oldest TLS that is spoken, as a server"""
    ciphers: str = ""
    """ciphers of TLS 1.2, as OpenSSL writes them; those with forward secrecy and AEAD if empty"""
    client_ca: ConfigPath | None = None
    """the authorities (PEM) of client certificates"""
    client_fingerprints: dict[Name, Fingerprint] = {}
    """client certificates by SHA-256 fingerprint, each under the name that AUTH EXTERNAL gives it"""


class DomainSection(Section):
    """`[domains."NAME"]`: a domain whose mail we accept from anyone; `*.NAME` means all below it."""

    route: Name
    """the [routes.NAME] that its mail takes"""
    recipients: Sources = ["any"]
    """the [recipients.NAME] that knows its addresses, or several: the first in the order that knows one decides; "any"
    takes all, and what the server behind refuses has to be bounced, mostly to people who never sent it"""
    aliases: list[Name] = []
    """the [aliases.NAME] that are asked which addresses stand for others, in their order"""
    catch_all: OneMailbox | None = None
    """who gets the mail for addresses that neither `aliases` nor `recipients` know; it is an invitation to spam"""
    delimiter: Annotated[str, Field(pattern=r"^[+=_#/~.-]?$")] = "+"
    """user+tag is user's address: what begins the tag; "" where addresses have none"""


class RoutingSection(Section):
    """`[routing]`: where mail goes that no [domains] entry names."""

    default: Name | None = None
    """the route of every other recipient; without it they are refused (550 5.4.4)"""
    recipients: dict[Pattern, Name] = {}
    """routes by recipient: an address (of our domains with any extension behind their `delimiter`, too), a domain, or
    "*.domain" for all below it"""
    senders: dict[Pattern, Name] = {}
    """routes by sender, in the same forms; asked after `recipients`, before `default`"""


class PipelineSection(Section):
    """`[pipelines.NAME]`: which filters, in which order."""

    filters: Filters
    """names of [filters.NAME] sections or of filter kinds; an inner list runs its filters at the same time. Without a
    filter of kind headers there is one at the end all the same"""


class FilterCommon(Section):
    """What every filter's section may say beside its own options."""

    kind: Name | None = None
    """which filter it is; the section's name if not given, so one kind can be used twice under other names"""
    mode: Literal["enforce", "shadow"] = "enforce"
    """shadow: the filter is asked, and its verdict recorded, and nothing done about it"""
    deadline: Timeout = 10.0
    """how long mail waits for an answer of this filter; after that it has failed"""
    on_failure: Literal["defer", "continue", "reject", "quarantine"] = "defer"
    """what is done where the filter failed: defer (451), continue, reject (550), or quarantine (before there is
    content: defer)"""
    only_for: list[Whom] = []
    """the recipients that the filter is for, all if empty: addresses, domains, "*.domain", or "file:lists/pilots.txt",
    a file with one of these a line, which is read again when it changes. It is not asked where nobody of a message is
    meant; what it decides and changes holds for those who are. Addresses as they are written to, before aliases. Asked
    before RCPT, when nobody knows the recipients, it refuses at the RCPT of those that it is for"""
    except_for: list[Whom] = []
    """the recipients that the filter is not for, in the same forms; they may be among those of `only_for`"""


class FilterSection(FilterCommon):
    """`[filters.NAME]`: the common settings, with the filter's own options as they stand in the file."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    @property
    def own(self) -> dict[str, Any]:
        """The keys that belong to the filter's own class of options."""
        return dict(self.model_extra or {})


class DnsSection(Section):
    """`[dns]`: whom we ask."""

    servers: list[Server] = []
    """"address" or "address:port" ("[v6]:port"); the system's resolvers if empty"""
    timeout: Timeout = 5.0
    """how long one question may take, all servers and retries together"""
    cache_size: Annotated[int, Field(strict=True, ge=0)] = 20000
    """answers that are kept in memory, each for its time to live; 0 keeps none"""
    dnssec: Flag = False
    """whether the servers validate by DNSSEC, and the way to them is safe, as on this machine: then we believe what
    they say of that (the AD flag), which DANE needs"""


class SpoolSection(Section):
    """`[spool]`: where messages wait."""

    url: Literal["sqlite:"] = "sqlite:"
    """sqlite: is a database in the state directory"""
    inline_limit: Size = 256 * 1024
    """content up to this size lies in the database; larger content in a file of its own"""
    min_free: Size = 100 * 1024 * 1024
    """with less free space on the disk of the state directory new mail gets 452, and the history is not written"""
    max_active: Annotated[int, Field(strict=True, ge=100)] = 10000
    """messages that are in memory for delivery at one time; the rest wait on disk"""


class CountersSection(Section):
    """`[counters]`: what filters remember: rates, who has been greylisted, reputations."""

    url: Literal["memory:", "sqlite:"] = "sqlite:"
    """sqlite: counts in memory, and writes what has changed to counters.db in the state directory every second, so that
    a restart forgets nothing, and a crash the last second or two; memory: forgets all when the process ends"""
    max_keys: Annotated[int, Field(strict=True, ge=1000)] = 100_000
    """counters that are kept at one time, and as many buckets and values; the least recently used go first"""
    max_size: Annotated[Size, at_least(1024**2, format_size)] = 32 * 1024**2
    """what the values may take, with their keys"""


class HistorySection(Section):
    """`[history]`: what `mailgate why` can answer from."""

    keep: Timeout = 14 * 86400.0
    """how far back it goes"""
    max_size: Annotated[Size, at_least(1024**2, format_size)] = 2 * 1024**3
    """the oldest goes first when the files of the history pass this size together"""


class LogSection(Section):
    """`[log]`: one JSON object a line for each event."""

    path: str = "mailgate.log"
    """a file, relative to the state directory; "-" is standard output, "" no log. Opened anew at a reload"""
    postfix: str = ""
    """a second one, with the lines that Postfix would write: for programs that read its log, like pflogsumm and
    fail2ban. "mail.log", or "-"; "" writes none"""


class Config(Section):
    """The whole file."""

    gateway: GatewaySection
    listeners: list[ListenerSection] = []
    milters: dict[Name, MilterSection] = {}
    policy_services: dict[Name, PolicySection] = {}
    socketmaps: dict[Name, SocketmapSection] = {}
    domains: dict[Domain, DomainSection] = {}
    recipients: dict[Name, RecipientsSection] = {}
    aliases: dict[Name, AliasSection] = {}
    forwarding: ForwardingSection = ForwardingSection()
    senders: dict[Name, SenderSection] = {}
    routes: dict[Name, Route] = {}
    routing: RoutingSection = RoutingSection()
    sources: dict[Name, SourceSection] = {}
    pools: dict[Name, PoolSection] = {}
    shaping: dict[Name, ShapingSection] = {}
    bounces: BouncesSection = BouncesSection()
    reports: ReportsSection = ReportsSection()
    quarantine: QuarantineSection = QuarantineSection()
    rehearsal: RehearsalSection = RehearsalSection()
    pipelines: dict[Name, PipelineSection]
    filters: dict[Name, FilterSection] = {}
    dns: DnsSection = DnsSection()
    spool: SpoolSection = SpoolSection()
    counters: CountersSection = CountersSection()
    history: HistorySection = HistorySection()
    log: LogSection = LogSection()
    tls: TlsSection = TlsSection()
    tls_policies: dict[Domain, TlsPolicySection] = {}
    mta_sts: MtaStsSection = MtaStsSection()
    tls_reports: TlsReportsSection = TlsReportsSection()
    auth: dict[Name, AuthSection] = {}
    http: HttpSection = HttpSection()
    webhooks: dict[Name, WebhookSection] = {}

    def filter(self, name: str) -> FilterSection:
        """The section of a filter that a pipeline names; an empty one where the file has none."""
        return self.filters.get(name) or FilterSection()
