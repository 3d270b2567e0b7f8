"""Services for a mail server that stays in front of us, or beside us: it asks, and keeps the mail."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mailgate.config.section import Section
from mailgate.config.units import Size, Timeout, at_least, format_duration, format_size
from mailgate.config.values import Count, Endpoint, Name, Network

__all__ = ["MapName", "MilterSection", "PolicySection", "SocketmapSection"]

MapName = Literal["recipients", "all-recipients", "domains", "aliases", "transport", "tls-policy"]
"""The tables that a socketmap has."""


def _below(most: float) -> AfterValidator:
    """A check for durations that the mail server bounds, too."""

    def check(value: float) -> float:
        if value >= most:
            raise ValueError(f"must be less than {format_duration(most)}, which is what Postfix waits")
        return value

    return AfterValidator(check)


class MilterSection(Section):
    """`[milters.NAME]`: a milter of ours, for Postfix or Sendmail: the mail server takes and keeps the mail, and does
    what our filters say. Where mail goes, and who may relay, stays its business."""

    endpoints: list[Endpoint] = Field(min_length=1)
    """where the mail server reaches us, in the forms of the listeners: "tcp:8891:interface=127.0.0.1",
    "unix:/run/mailgate/milter:mode=660" """
    pipeline: Name
    """the [pipelines.NAME] that judges the mail"""
    trusted_pipeline: Name | None = None
    """role hybrid: the pipeline of clients that may relay; the same as `pipeline` if not given"""
    role: Literal["inbound", "outbound", "hybrid"] = "hybrid"
    """what filters take its sessions for, as with listeners. inbound: nobody counts as one of yours, whoever has logged
    in"""
    trusted_networks: list[Network] = []
    """role outbound or hybrid: clients of the mail server that may relay without logging in: its mynetworks"""
    mail_servers: list[Network] = [IPv4Network("127.0.0.0/8"), IPv6Network("::1/128")]
    """who may connect: mail servers, whose word we take for who the client is and as whom it has logged in. A unix
    socket's permissions say so by themselves"""
    quarantine: Literal["hold", "own"] = "hold"
    """where mail goes that filters put into quarantine. hold: the mail server's own (`postqueue -p` shows it,
    `postsuper -H` releases it), for all recipients of the message; own: ours, for those recipients that are meant,
    while the mail server goes on with the others"""
    route: Name | None = None
    """the [routes.NAME] by which mail leaves our own quarantine, to a port of the mail server that does not ask us
    again; quarantine = "own" needs it. Recipients whose copies filters have changed otherwise than those of the
    others get theirs this way as well: the mail server has one message for all"""
    refused_for_some: Literal["quarantine", "report"] = "quarantine"
    """what is done where a message is refused for some recipients and not for others. With a `route` these go into our
    own quarantine, or (report, and always for clients that may relay) the sender gets a report; without one the whole
    message goes into the mail server's quarantine"""
    max_message_size: Annotated[Size, at_least(64 * 1024, format_size)] = 100 * 1024 * 1024
    """larger messages are refused with 552; not less than the mail server takes (message_size_limit)"""
    max_connections: Count = 500
    """connections of mail servers at one time, one for each client of theirs; more are cut, and the mail server does
    what its milter_default_action says"""
    command_timeout: Annotated[Timeout, _below(30.0)] = 25.0
    """how long filters may take about the client, the greeting, the sender or a recipient; then it is deferred (451)"""
    message_timeout: Annotated[Timeout, _below(300.0)] = 280.0
    """how long filters may take about the content; then it is deferred (451)"""
    idle_timeout: Annotated[Timeout, at_least(60.0, format_duration)] = 3600.0
    """a connection in which the mail server says nothing for so long is closed; longer than its sessions last"""


class PolicySection(Section):
    """`[policy_services.NAME]`: a policy service of ours, for Postfix (`check_policy_service`): it is asked about a
    client, a greeting, a sender and each recipient, before the content, and says what our filters say of them."""

    endpoints: list[Endpoint] = Field(min_length=1)
    """where Postfix reaches us, in the forms of the listeners: "tcp:10040:interface=127.0.0.1",
    "unix:/var/spool/postfix/private/mailgate:mode=666" """
    pipeline: Name
    """the [pipelines.NAME] that judges the mail; filters that look at the content are not asked"""
    trusted_pipeline: Name | None = None
    """role hybrid: the pipeline of clients that may relay; the same as `pipeline` if not given"""
    role: Literal["inbound", "outbound", "hybrid"] = "hybrid"
    """what filters take its sessions for, as with listeners. inbound: nobody counts as one of yours, whoever has logged
    in"""
    trusted_networks: list[Network] = []
    """role outbound or hybrid: clients of Postfix that may relay without logging in: its mynetworks"""
    mail_servers: list[Network] = [IPv4Network("127.0.0.0/8"), IPv6Network("::1/128")]
    """who may connect: mail servers, whose word we take for who the client is and as whom it has logged in. A unix
    socket's permissions say so by themselves"""
    prepend: Literal["nothing", "authentication-results"] = "nothing"
    """what Postfix puts on top of each message. authentication-results: that field (RFC 8601), in the name of
    gateway.hostname, with what is known before the content (SPF, iprev, a login). Only the topmost one of that name is
    to be believed: a sender can have written others"""
    max_connections: Count = 500
    """connections at one time, one for each smtpd process; more are cut, and Postfix answers its clients 451
    (smtpd_policy_service_default_action)"""
    timeout: Annotated[Timeout, _below(100.0)] = 90.0
    """how long the filters may take about one request; then it is deferred (450)"""
    idle_timeout: Annotated[Timeout, at_least(60.0, format_duration)] = 3600.0
    """a connection in which nothing is asked for so long is closed"""


class SocketmapSection(Section):
    """`[socketmaps.NAME]`: our tables, for Postfix: `socketmap:inet:127.0.0.1:10041:recipients`, wherever it takes a
    table. Of the same names as here, and with the same answers as our own sessions and deliveries go by."""

    endpoints: list[Endpoint] = Field(min_length=1)
    """where Postfix reaches us, in the forms of the listeners: "tcp:10041:interface=127.0.0.1" """
    maps: list[MapName] = Field(
        default=["recipients", "all-recipients", "domains", "aliases", "transport", "tls-policy"], min_length=1
    )
    """which there are. recipients: addresses that take mail from anybody (relay_recipient_maps); all-recipients: those
    for mail from inside, too; domains: ours (relay_domains); aliases: whom an address stands for (virtual_alias_maps);
    transport: the route of an address (transport_maps); tls-policy: what is asked of TLS with a destination
    (smtp_tls_policy_maps and lmtp_tls_policy_maps)"""
    mail_servers: list[Network] = [IPv4Network("127.0.0.0/8"), IPv6Network("::1/128")]
    """who may ask: whoever does can find out who your recipients are"""
    max_connections: Count = 500
    """connections at one time; more are cut, and Postfix tries again later"""
    timeout: Annotated[Timeout, _below(100.0)] = 60.0
    """how long one answer may take; then the mail server is told to try again later"""
    idle_timeout: Annotated[Timeout, at_least(60.0, format_duration)] = 600.0
    """a connection in which nothing is asked for so long is closed"""
