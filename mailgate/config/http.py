"""`[http]`: what is served by HTTP, where, and to whom."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mailgate.config.injection import InjectionSection
from mailgate.config.section import Section
from mailgate.config.units import Form, Size, Timeout, at_least, format_size
from mailgate.config.values import Count, Day, Endpoint, Flag, HttpUrl, Name, Network

__all__ = ["HttpSection", "Scope", "TokenSection"]

Scope = Literal[
    "queue:read",
    "queue:write",
    "quarantine:read",
    "quarantine:write",
    "suppressions:read",
    "suppressions:write",
    "status",
    "metrics",
    "send",
]
"""What a token may be used for."""


def _hash(text: str) -> str:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        raise ValueError("is no hash of a token: make one with mailgate token")
    return text


def _url(text: str) -> str:
    if "?" in text:
        raise ValueError("has no ? in it: the rest of each link is put behind it")
    return text.rstrip("/")


class TokenSection(Section):
    """`[http.tokens.NAME]`: a program that may use the API, with a secret that `mailgate token NAME` makes. It is sent
    with each request: `Authorization: Bearer SECRET`."""

    hash: Annotated[str, AfterValidator(_hash), Form("hash")]
    """the hash of the secret; the secret itself is nowhere in our files"""
    scopes: list[Scope] = Field(min_length=1)
    """what it may do. queue:read looks at the queue, beginnings of messages included; queue:write changes it, and can
    release what is in quarantine as well; suppressions:read and suppressions:write are about addresses that get no
    more mail; quarantine:read and quarantine:write are about mail in quarantine; status and
    metrics tell how the gateway is; send hands in mail"""
    expires: Day | None = None
    """the day (UTC) from which on it is not taken any more"""


class HttpSection(Section):
    """`[http]`: the API, pages by which recipients release mail, and metrics. With several workers the first one serves
    them; while another takes its place, requests wait."""

    endpoints: list[Endpoint] = []
    """where to listen, in the forms of the listeners: "tcp:8443", "tcp:8080:interface=127.0.0.1", "unix:/run/http". No
    HTTP if empty"""
    tls: Flag | None = None
    """whether it is HTTPS, with the certificates of [tls]. If not given: where there are any"""
    url: Annotated[HttpUrl, AfterValidator(_url)] | None = None
    """how others reach it: the beginning of the links in mail, like "https://mail.example.org" """
    tokens: dict[Name, TokenSection] = {}
    """the programs that may use the API"""
    metrics_from: list[Network] = []
    """clients that may read /metrics without a token: ["127.0.0.1", "::1"] for a Prometheus on this machine"""
    forwarded_from: list[Network] = []
    """proxies (nginx, haproxy) whose X-Forwarded-For we believe; a unix socket's client is always believed"""
    max_connections: Count = 500
    """connections at one time; more are closed at once"""
    max_connections_per_client: Count = 50
    """connections at one time from one address (IPv6: one /64), but for the proxies of forwarded_from"""
    max_body: Annotated[Size, at_least(1024, format_size)] = 1024**2
    """a request with more behind its header is refused (413)"""
    request_timeout: Timeout = 30.0
    """how long a request may take to come in, all of it, and how long a connection may be idle"""
    max_wrong_tokens: Count = 20
    """wrong tokens per hour from one address (IPv6: one /64); after them every token from there gets 429, right or
    wrong"""
    injection: InjectionSection | None = None
    """mail that programs hand in; none is taken where it is not given"""
