"""What `[http]` and the digest need of other sections, and what of them is risky."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from mailgate.config.document import Document
from mailgate.config.endpoints import listening
from mailgate.config.problems import Problems, choices
from mailgate.config.schema import Config

__all__ = ["advise_on_http", "check_http"]


def check_http(document: Document, problems: Problems) -> None:
    """Errors, in a document that may be wrong elsewhere."""
    http = document.table("http")
    if http.get("tls") is True and "certificate" not in document.table("tls"):
        problems.error(("http", "tls"), "there is no certificate: tls.certificate is not given")
    taken = {
        endpoint: ("listeners", number, "endpoints", index)
        for number, listener in document.listeners()
        for index, endpoint in enumerate(_strings(listener.get("endpoints")))
    }
    for index, endpoint in enumerate(_strings(http.get("endpoints"))):
        if endpoint in taken:
            text = f'"{endpoint}" stands in line {problems.line(taken[endpoint])} already'
            problems.error(("http", "endpoints", index), text)
    if document.table("quarantine", "digest").get("enabled") is True:
        if not http.get("endpoints"):
            problems.error(("quarantine", "digest", "enabled"), "its links lead to [http], which has no endpoints")
        if not http.get("url"):
            problems.error(("quarantine", "digest", "enabled"), "its links need http.url: how others reach us")
    _same_hashes(document.table("http", "tokens"), problems)
    injection = document.table("http", "injection")
    pipeline = injection.get("pipeline")
    if isinstance(pipeline, str) and pipeline not in document.names("pipelines"):
        text = choices(f'there is no pipeline "{pipeline}"', pipeline, document.names("pipelines"))
        problems.error(("http", "injection", "pipeline"), text)
    if injection and injection.get("name", "api") in [listener.get("name") for _, listener in document.listeners()]:
        problems.error(("http", "injection", "name"), "is the name of a listener: this way in has a name of its own")


def advise_on_http(config: Config, document: Document, problems: Problems) -> None:
    """Warn about a file without errors."""
    http = config.http
    if not http.endpoints:
        return
    _advise_on_injection(config, document, problems)
    has_tls = config.tls.certificate is not None if http.tls is None else http.tls
    for index, endpoint in enumerate(http.endpoints):
        place = listening(endpoint)
        if place is None or has_tls or _is_loopback(place.interface):
            continue
        if http.tokens:
            problems.warn(("http", "endpoints", index), f"tokens come in clear text over {endpoint}: it has no TLS")
    has_digest = document.table("quarantine", "digest").get("enabled") is True
    if http.url is not None and http.url.startswith("http:") and has_digest:
        problems.warn(("http", "url"), "links in mail are followed in clear text: use https")


def _advise_on_injection(config: Config, document: Document, problems: Problems) -> None:
    """About mail that comes by HTTP, and who may send it."""
    injection = config.http.injection
    senders = [name for name, token in config.http.tokens.items() if "send" in token.scopes]
    if injection is None:
        for name in senders:
            text = "send hands in mail, and none is taken: there is no [http.injection]"
            problems.warn(("http", "tokens", name, "scopes"), text)
        return
    path = ("http", "injection", "pipeline")
    kinds = {document.kind_of(name) for name, place in document.pipeline_filters() if place[1] == injection.pipeline}
    if "sender-login" not in kinds:
        problems.warn(path, "every token may send as anybody: the pipeline has no filter sender-login")
    if not senders:
        problems.warn(path, 'nobody may hand in mail: no token has the scope "send"')


def _same_hashes(tokens: Mapping[str, object], problems: Problems) -> None:
    seen: dict[str, str] = {}
    for name, token in tokens.items():
        value = token.get("hash") if isinstance(token, dict) else None
        if isinstance(value, str) and value in seen:
            problems.error(("http", "tokens", name, "hash"), f"is that of {seen[value]}: each token has its own")
        elif isinstance(value, str):
            seen[value] = name


def _strings(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _is_loopback(interface: str) -> bool:
    try:
        return ip_address(interface).is_loopback
    except ValueError:
        return False
