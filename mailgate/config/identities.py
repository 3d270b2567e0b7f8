"""Warnings about whom we believe, and whom we show a password: TLS, AUTH, and who may say who the client is."""

from __future__ import annotations

from pathlib import Path as FilePath
from urllib.parse import urlsplit

from mailgate.config.locate import Path
from mailgate.config.machine import exposed
from mailgate.config.problems import Problems
from mailgate.config.public import public_space
from mailgate.config.routes import HttpRoute
from mailgate.config.schema import Config, ListenerSection, LmtpRoute, SmtpRoute
from mailgate.config.section import Section

__all__ = ["advise_on_identities", "warn_of_clear_text", "warn_of_secrets"]

#: Who is in these lists may say anything about the client.
_BELIEVED = {
    "proxy_protocol_from": "may pretend to be any client",
    "xclient_from": "may pretend to be any client, and any user",
    "xforward_from": "may write any origin into the history",
}
#: What a listener says about AUTH.
_FOR_AUTH = ("auth_mechanisms", "auth_without_tls", "max_auth_failures", "max_auth_failures_per_client")
#: What a section about a service that is asked calls files that hold a secret of ours.
_SECRET_FILES = ("password_file", "bind_password_file", "token_file", "client_secret_file", "refresh_token_file")
#: Mechanisms that work in clear text without showing the password.
_SECRET_KEPT = {"scram-sha-256", "cram-md5"}


def advise_on_identities(config: Config, problems: Problems) -> None:
    """Warn about a file without errors."""
    for number, listener in enumerate(config.listeners):
        path: Path = ("listeners", number)
        for key, what in _BELIEVED.items():
            if text := public_space(getattr(listener, key)):
                problems.warn((*path, key), f"{text} {what}")
        _listener(config, listener, path, problems)
    for name, route in config.routes.items():
        if isinstance(route, SmtpRoute | LmtpRoute):
            _route(route, ("routes", name), problems)
            _secret(("routes", name, "certificate"), route.certificate, problems)
            if route.auth is not None:
                _secret(("routes", name, "auth", "password_file"), route.auth.password_file, problems)
                if route.auth.oauth is not None:
                    warn_of_secrets(("routes", name, "auth", "oauth"), route.auth.oauth, problems)
        elif isinstance(route, HttpRoute):
            _secret(("routes", name, "secret_file"), route.secret_file, problems)
            _secret(("routes", name, "certificate"), route.certificate, problems)
            warn_of_secrets(("routes", name), route, problems)
            for key in ("ca", "certificate"):
                if route.is_clear and getattr(route, key) is not None:
                    problems.warn(("routes", name, key), "has no effect: there is no TLS with http://")
    used = {listener.auth for listener in config.listeners}
    for name in config.auth:
        if name not in used:
            problems.warn(("auth", name), "no listener names this section")
        warn_of_secrets(("auth", name), config.auth[name], problems)
        for key in ("url", "jwks", "introspection"):
            warn_of_clear_text(("auth", name, key), getattr(config.auth[name], key, None), problems)
    asked = {one for section in config.filters.values() for one in _names(section.own.get("senders"))}
    for name, source in config.senders.items():
        if name not in asked:
            problems.warn(("senders", name), "no filter names this section: see senders of the filter sender-login")
        warn_of_secrets(("senders", name), source, problems)
        warn_of_clear_text(("senders", name, "url"), getattr(source, "url", None), problems)
    asks = any(listener.client_certificates != "none" for listener in config.listeners)
    if config.tls.client_fingerprints and not asks:
        problems.warn(("tls", "client_fingerprints"), "no listener asks for a certificate: see client_certificates")


def warn_of_secrets(path: Path, section: Section, problems: Problems) -> None:
    """Warn where others on this machine can read a secret with which the section's service is asked."""
    for key in _SECRET_FILES:
        _secret((*path, key), getattr(section, key, None), problems)


def warn_of_clear_text(path: Path, url: str | None, problems: Problems) -> None:
    """Warn where this is an address of a service that is reached over a network without TLS."""
    # What is asked by another protocol has addresses of its own, which nobody has taken apart yet.
    if url is None or not url.lower().startswith("http:"):
        return
    if urlsplit(url).hostname not in ("localhost", "127.0.0.1", "::1"):
        problems.warn(path, "http: what is asked and answered can be read and changed on the way")


def _names(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _listener(config: Config, listener: ListenerSection, path: Path, problems: Problems) -> None:
    if listener.auth is None:
        for key in _FOR_AUTH:
            if getattr(listener, key) != ListenerSection.model_fields[key].default:
                problems.warn((*path, key), "has no effect: the listener has no auth")
        return
    has_tls = config.tls.certificate is not None and listener.tls != "off"
    if listener.role == "inbound":
        problems.warn((*path, "auth"), "has no effect: role inbound never relays")
    elif listener.auth_without_tls:
        problems.warn((*path, "auth_without_tls"), "passwords of users can be read by whoever sees the network")
    elif not has_tls and not _SECRET_KEPT & set(listener.auth_mechanisms):
        problems.warn((*path, "auth"), "nobody can log in: there is no TLS, and every mechanism needs it")
    elif not has_tls:
        problems.warn((*path, "auth"), "without TLS only mechanisms that hide the password are offered")


def _secret(path: Path, file: FilePath | None, problems: Problems) -> None:
    if file is not None and (text := exposed(file)):
        problems.warn(path, f"{file} {text}")


def _route(route: SmtpRoute | LmtpRoute, path: Path, problems: Problems) -> None:
    if route.tls in ("off", "opportunistic", "required"):
        for key in ("tls_name", "tls_ca", "tls_fingerprints"):
            is_for_policies = key == "tls_ca" and isinstance(route, SmtpRoute) and route.security != "none"
            if getattr(route, key) and not is_for_policies:
                problems.warn((*path, key), f'has no effect: tls = "{route.tls}" looks at no certificate')
    if route.tls == "off" and route.certificate is not None:
        problems.warn((*path, "certificate"), 'has no effect: tls is "off"')
    if route.auth is not None:
        if route.auth.without_tls:
            problems.warn((*path, "auth", "without_tls"), "the password can be read by whoever sees the network")
        elif route.tls == "off" and (route.auth.oauth is not None or not _SECRET_KEPT & set(route.auth.mechanisms)):
            problems.warn((*path, "auth"), 'nobody can log in: tls is "off", and every mechanism needs it')
        if "external" in route.auth.mechanisms and route.certificate is None:
            problems.warn((*path, "auth", "mechanisms"), "external shows a certificate: give the route one")
    if route.xclient and route.proxy_protocol:
        problems.warn((*path, "proxy_protocol"), "one of xclient and proxy_protocol is enough")
