"""`[routes.NAME]`: the next hops."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from mailgate.config.section import Section
from mailgate.config.units import ConfigPath, Duration, Timeout
from mailgate.config.values import (
    Count,
    Fingerprint,
    Flag,
    Hostname,
    Hosts,
    HttpUrl,
    MaildirPath,
    Mechanism,
    Name,
    Port,
    private_url,
)

__all__ = [
    "ClientAuth",
    "ClientOAuth",
    "DiscardRoute",
    "HopRoute",
    "HttpRoute",
    "LmtpRoute",
    "MaildirRoute",
    "Preset",
    "RetrySection",
    "Route",
    "ServerRoute",
    "SiteRoute",
    "SmtpRoute",
]


class RetrySection(Section):
    """`retry` of a route: when a deferred recipient is tried again (RFC 5321 section 4.5.4.1)."""

    first: Timeout = 300.0
    """how long a recipient waits after the first attempt that failed; this and later waits vary by a tenth"""
    factor: Annotated[float, Field(strict=True, ge=1, le=10)] = 2.0
    """each later wait is this many times the one before"""
    longest: Timeout = 4 * 3600.0
    """no wait is longer"""
    expire: Timeout = 5 * 86400.0
    """a message this old is tried no more: its sender gets a report"""
    warn: Duration = 4 * 3600.0
    """after this long without delivery the sender is told, once, that it is late, unless it asked not to be; 0 never"""


class ClientOAuth(Section):
    """`auth.oauth` of a route: where we get the tokens with which we log in (RFC 6749)."""

    token_url: HttpUrl
    """the token endpoint of the provider: "https://login.microsoftonline.com/TENANT/oauth2/v2.0/token" """
    client_id: str = Field(min_length=1)
    """as which application we ask"""
    client_secret_file: ConfigPath | None = None
    """a file with the application's secret; a public client, with a refresh token only, has none"""
    refresh_token_file: ConfigPath | None = None
    """a file with a refresh token that somebody has got by logging in once: mail is then sent as that user. Without it
    the application itself logs in (client credentials). Where the provider gives a new one it is written to this file,
    which mailgate must be able to write in its folder"""
    scope: str = ""
    """what is asked for: "https://outlook.office365.com/.default" """
    client_auth: Literal["body", "basic"] = "body"
    """where name and secret of the application stand: body (of the request), or basic (its Authorization field)"""
    ca: ConfigPath | None = None
    """the authorities (PEM) that the provider's certificate must come from; the system's if not given"""
    timeout: Timeout = 10.0
    """how long we wait for a token"""

    @model_validator(mode="after")
    def _whole(self) -> ClientOAuth:
        if self.client_secret_file is None and (self.refresh_token_file is None or self.client_auth == "basic"):
            raise ValueError("client_secret_file is needed, but for a refresh_token_file with client_auth body")
        return self


class ClientAuth(Section):
    """`auth` of a route: who we are there (RFC 4954)."""

    username: str = Field(min_length=1)
    """the user's name"""
    password_file: ConfigPath | None = None
    """a file with the password; one of this and `oauth` is needed"""
    oauth: ClientOAuth | None = None
    """where tokens come from, in the place of a password; the mechanisms are then xoauth2 and oauthbearer"""
    mechanisms: list[Mechanism] = ["scram-sha-256-plus", "scram-sha-256", "cram-md5", "plain", "login"]
    """what may be used, the best first; external shows `certificate` instead of a password"""
    without_tls: Flag = False
    """whether the password may go out in clear text"""

    @model_validator(mode="after")
    def _whole(self) -> ClientAuth:
        if (self.password_file is None) == (self.oauth is None):
            raise ValueError("give either password_file or oauth")
        wrong = set(self.mechanisms) - {"xoauth2", "oauthbearer"}
        if self.oauth is not None and "mechanisms" in self.model_fields_set and wrong:
            raise ValueError("mechanisms: tokens are for xoauth2 and oauthbearer")
        return self


class _RouteSection(Section):
    retry: RetrySection = RetrySection()
    """the retry schedule"""


Preset = Literal["exchange", "exchange-online"]
"""Back ends whose answers mean more than their codes say."""


class HopRoute(_RouteSection):
    """What routes over the network share."""

    pool: Name | None = None
    """the [pools.NAME] or the one [sources.NAME] that its mail goes out from; the system chooses if not given"""
    connections: Count = 20
    """connections at one time to one site: these hosts, or by MX the hosts of one set of records"""
    messages_per_connection: Count = 100
    """messages on one connection before it is closed"""
    idle_timeout: Duration = 10.0
    """how long an idle connection is kept for the next message"""
    connect_timeout: Timeout = 30.0
    """how long we wait for a connection; then the next address is tried"""
    ipv6: Flag = True
    """whether IPv6 addresses of hosts are tried, too; false where this machine has no IPv6 to the Internet"""
    fallback: Name | None = None
    """the route by which mail goes from its second attempt on that this one could not deliver in `fallback_after`: a
    smart host of a provider, where the hosts of this one cannot be reached or take nothing. Its own fallback counts for
    nothing then"""
    fallback_after: Duration = 900.0
    """how old such mail is at least"""


class ServerRoute(HopRoute):
    """What routes to mail servers share."""

    queue: Flag = True
    """false: the next hop is asked while the client waits, and its answers to RCPT and to the content are the client's;
    nothing is kept here meanwhile. For fixed `hosts` only (see the guide to inline delivery)"""
    when_unreachable: Literal["defer", "queue"] = "defer"
    """with queue = false, where the next hop cannot be reached or breaks off before it has the content: defer: the
    client is told 451; queue: the message is taken into the spool, and delivered from there"""
    rcpt_timeout: Timeout = 60.0
    """with queue = false, how long a client waits at RCPT in all, for a free connection, a session and an answer"""
    hold_timeout: Timeout = 60.0
    """with queue = false, how long a client that says nothing, or is busy with its content, keeps its session with the
    next hop; then that serves others, and there is another for the content"""
    command_timeout: Timeout = 300.0
    """how long we wait for the greeting and for each reply but the last"""
    data_timeout: Timeout = 600.0
    """how long we wait for the reply to the end of data (RFC 5321: at least 10 minutes; less makes duplicates)"""
    tls: Literal["off", "opportunistic", "required", "verified", "implicit"] = "opportunistic"
    """off: clear text; opportunistic: STARTTLS where it is offered and works; required: no delivery without TLS;
    verified: nor without a certificate that is right; implicit: TLS from the first octet (port 465), verified"""
    tls_name: Hostname | None = None
    """the name that the certificate must have; the host's if not given"""
    tls_ca: ConfigPath | None = None
    """the authorities (PEM) that the certificate must come from; the system's if not given"""
    tls_fingerprints: list[Fingerprint] = []
    """SHA-256 fingerprints of certificates or their public keys, one of which must be shown; takes the place of name
    and authority"""
    certificate: ConfigPath | None = None
    """a PEM file with certificate and key that we show where we are asked"""
    auth: ClientAuth | None = None
    """with which name and password we log in; without it we do not"""
    xclient: Flag = False
    """whether the next hop is told by XCLIENT who the client was, so that it judges the client and not us"""
    xforward: Flag = False
    """whether the next hop is told by XFORWARD where the message came from, for its log"""
    proxy_protocol: Flag = False
    """whether each connection begins with a PROXY header (v2) that names the client; one message a connection then"""
    chunking: Flag = True
    """whether content goes by BDAT where it is offered and spares a conversion (BINARYMIME)"""


class SmtpRoute(ServerRoute):
    """`[routes.NAME]` with transport smtp: to fixed hosts, or by MX where there are none."""

    transport: Literal["smtp"]
    """by SMTP, to mail servers"""
    preset: Preset | None = None
    """what stands behind fixed `hosts`: exchange (servers of the site) or exchange-online. Where it refuses our
    connector, and not the mail, that waits, with an alarm, and is not returned; a host that is short of resources is
    left for another one; and a recipient whom it refuses after the content keeps that from nobody else"""
    hosts: Hosts = []
    """"host" or "host:port" ("[v6]:port") in the order in which they are tried; an inner list shares the load. Empty:
    by the MX records of the recipient's domain"""
    port: Port = 25
    """the port of hosts that name none, and of MX hosts"""
    security: Literal["none", "auto", "dane", "mta-sts"] = "none"
    """what destinations publish of their TLS, and is asked of their hosts: dane: TLSA records, which need `dns.dnssec`;
    mta-sts: policies over HTTPS; auto: both, as far as they can be had; none: what `tls` says is all"""

    @model_validator(mode="after")
    def _hosts_of_preset(self) -> SmtpRoute:
        if self.preset is not None and not self.hosts:
            raise ValueError(f'preset = "{self.preset}" is for fixed hosts, and this route goes by MX')
        return self


class LmtpRoute(ServerRoute):
    """`[routes.NAME]` with transport lmtp: to fixed hosts, or a socket "unix:/path"."""

    transport: Literal["lmtp"]
    """by LMTP, to a mailbox server, with an answer for each recipient"""
    hosts: Hosts = Field(min_length=1)
    """"host:port" or "unix:/path" in the order in which they are tried; an inner list shares the load"""
    port: Port = 24
    """the port of hosts that name none"""


class HttpRoute(HopRoute):
    """`[routes.NAME]` with transport http: to an application, by a signed POST for each message (see the guide to
    applications)."""

    transport: Literal["http"]
    """to an application of the site's own, over HTTP"""
    url: Annotated[HttpUrl, AfterValidator(private_url)]
    """where messages are sent: https://, or http:// on this machine. Redirects are not followed"""
    secret_file: ConfigPath
    """a file with a secret a line (16 octets at least), and # for comments: each request is signed with every one of
    them, as those of webhooks are. It is read again when it changes"""
    token_file: ConfigPath | None = None
    """a file with a secret that is sent as well, as "Authorization: Bearer ..."; read again when it changes"""
    username: Annotated[str, Field(min_length=1)] | None = None
    """with which name, and the password of `password_file`, we log in (Basic, RFC 7617), instead of a token"""
    password_file: ConfigPath | None = None
    """a file with the password of `username`; read again when it changes"""
    certificate: ConfigPath | None = None
    """a PEM file with certificate and key that we show where the application asks for one"""
    format: Literal["json", "form", "raw"] = "json"
    """json: the message taken apart, attachments in base64; form: the same as multipart/form-data, attachments as
    files; raw: multipart/form-data with the message as one file"""
    ca: ConfigPath | None = None
    """authorities (PEM) that the certificate must come from; the system's if not given"""
    timeout: Timeout = 60.0
    """how long we wait for an answer, and for the application to take each piece of a large request"""

    @model_validator(mode="after")
    def _one_login(self) -> HttpRoute:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file belong together")
        if self.token_file is not None and self.username is not None:
            raise ValueError("give either token_file or username: a request has one Authorization field")
        if self.username is not None and (not self.username.isprintable() or ":" in self.username):
            raise ValueError("username: a name for Basic has no colon, nor control characters (RFC 7617)")
        return self

    @property
    def is_clear(self) -> bool:
        """Whether requests go out without TLS, which is within this machine."""
        return urlsplit(self.url).scheme == "http"

    @property
    def port(self) -> int:
        """That of the URL."""
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def hosts(self) -> Hosts:
        """The one of the URL."""
        host = urlsplit(self.url).hostname or ""
        return [f"[{host}]" if ":" in host else host]


class MaildirRoute(_RouteSection):
    """`[routes.NAME]` with transport maildir: into folders of this machine."""

    transport: Literal["maildir"]
    """into a Maildir, synced to disk before it counts as delivered"""
    path: MaildirPath
    """the Maildir, made with mode 0700 if it does not exist; {domain} and {local_part} stand for the recipient's, in
    lower case"""


class DiscardRoute(_RouteSection):
    """`[routes.NAME]` with transport discard: taken, dropped, and told so in the history."""

    transport: Literal["discard"]
    """thrown away, without a report"""
    reason: str = "discarded by its route"
    """what the history says"""


SiteRoute = SmtpRoute | LmtpRoute | HttpRoute
"""The routes to hosts, by their transports."""

Route = Annotated[SmtpRoute | LmtpRoute | HttpRoute | MaildirRoute | DiscardRoute, Field(discriminator="transport")]
