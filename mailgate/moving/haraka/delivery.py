"""Where a Haraka hands mail to, and whose mail it takes: routes, domains, recipients, aliases."""

from __future__ import annotations

import json
import re

from mailgate.address import Address, AddressError
from mailgate.config.hosts import parse_domain, parse_host, parse_network
from mailgate.config.units import format_duration
from mailgate.moving.draft import Section
from mailgate.moving.files import ReadingError, is_everybody, read_text, slug
from mailgate.moving.haraka.reading import Haraka, Ini

__all__ = ["read_delivery", "trusted"]

_SMTP_QUEUES = {"queue/smtp_forward": "smtp_forward.ini", "queue/smtp_proxy": "smtp_proxy.ini"}
#: Plugins that take what others have marked, and pass on all else.
_PASSING = {"queue/quarantine", "queue/discard"}
_SPAN = re.compile(r"\s*(\d+)\s*([smhd])\s*(?:\*\s*(\d+))?\s*")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: The waits of a Haraka that is not told otherwise come to about this much.
_DEFAULT_EXPIRE = 3 * 86400


class Delivery:
    """What is known of it while the rest is read: whether clients that may relay go out by MX."""

    def __init__(self, haraka: Haraka, plugins: list[str]) -> None:
        self._haraka = haraka
        self._draft = haraka.draft
        self._plugins = plugins

    def read(self) -> None:
        """Routes first, since domains name them."""
        queues = [one for one in self._plugins if one.startswith("queue/") and one not in _PASSING]
        queue = next(iter(queues), "")
        if len(queues) > 1:
            text = f"{queue} comes first, and what it does not take goes to the next in Haraka"
            self._draft.leave("decide", ", ".join(queues), text, "See fallback of the route, and [domains]")
        default, own, outbound = self._queue(queue)
        self._domains(default, own)
        self._aliases()
        if outbound:
            self._internet()
            self._draft.section("routing").set("default", "internet", "outbound.ini")
        elif default:
            origin = f"{_SMTP_QUEUES.get(queue, queue)} enable_outbound (it is on unless it is false)"
            self._draft.section("routing").set("default", default, origin)
        self._forced()

    def _queue(self, queue: str) -> tuple[str, dict[str, str], bool]:
        """The default route, those of single domains, and whether other mail goes by MX."""
        if queue in _SMTP_QUEUES:
            ini = self._haraka.ini(_SMTP_QUEUES[queue])
            default = self._server("inside", ini, "main", "smtp")
            if queue == "queue/smtp_proxy":
                section = self._draft.section("routes", default)
                section.set("queue", False, "queue/smtp_proxy: the next hop answers while the client waits")
            own = self._own(ini, "smtp")
            if ini.get("domain_selector") == "mail_from":
                text = "routes by the sender's domain stand in [routing.senders]"
                self._draft.leave("decide", ini.origin("domain_selector"), text, "Move them there from [domains]")
            return default, own, not ini.is_true("enable_outbound", default=True)
        if queue == "queue/lmtp":
            ini = self._haraka.ini("lmtp.ini")
            default = self._server("inside", ini, "main", "lmtp")
            return default, self._own(ini, "lmtp"), True
        section = self._draft.section("routes", "inside")
        section.set("transport", "maildir", queue or "no queue plugin")
        section.set("path", "/var/lib/mailgate/mailboxes/{domain}/{local_part}")
        advice = "Name the next hop; until then mail is kept in mailboxes/"
        self._draft.decide(section, queue or "plugins", "this way of handing mail over is not known here", advice)
        return "inside", {}, True

    def _own(self, ini: Ini, transport: str) -> dict[str, str]:
        """The routes of single domains, which are the sections of the file."""
        found = {}
        for name in ini.sections:
            try:
                domain = parse_domain(name) if "." in name else ""
            except ValueError as error:
                self._draft.leave("missing", ini.origin(section=name), str(error))
                continue
            if domain:
                found[domain] = self._server(slug(f"to-{domain}"), ini, name, transport)
        return found

    def _server(self, name: str, ini: Ini, own: str, transport: str) -> str:
        section = self._draft.section("routes", name)
        section.set("transport", transport, ini.origin(section=own))

        def get(key: str, default: str = "") -> str:
            return ini.get(key, ini.get(key, default), own)

        path = ini.get("path", "" if ini.get("host", section=own) else ini.get("path"), own)
        host, port = get("host", "localhost"), get("port", "24" if transport == "lmtp" else "25")
        written = f"unix:{path}" if path else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            parse_host(written, 25)
        except ValueError as error:
            self._draft.decide(section, ini.origin("host", own), str(error), "Write the next hop into hosts")
            written = "127.0.0.1:10025"
        section.set("hosts", [written], ini.origin("host", own))
        if get("enable_tls") in ("true", "1", "yes") and transport == "smtp":
            section.set("tls", "opportunistic", ini.origin("enable_tls", own))
        elif transport == "smtp":
            section.set("tls", "off", f"{ini.name}: enable_tls is not set")
        user = get("auth_user")
        if user and get("auth_type") and get("auth_pass").strip():
            file = self._draft.file(f"secrets/{name}.password", [get("auth_pass")], is_secret=True)
            section.set("auth", {"username": user, "password_file": file}, ini.origin("auth_user", own))
            text = "a password goes out under TLS only"
            self._draft.leave("differs", ini.origin("auth_pass", own), text, "See without_tls of the login")
            section.set("tls", "required", "with a login")
        if (most := ini.number("max_connections", own)) and most >= 1:
            section.set("connections", int(most), ini.origin("max_connections", own))
        return name

    def _domains(self, default: str, own: dict[str, str]) -> None:
        listed = self._haraka.lines("host_list")
        if not any(one.startswith("rcpt_to.") for one in self._plugins):
            text = "no plugin that is switched on reads it: its domains are not taken"
            self._draft.leave("differs", "host_list", text)
            listed = []
        names = dict.fromkeys(one.lower() for one in listed)
        origins = dict.fromkeys(names, "host_list")
        forward = self._haraka.ini("smtp_forward.ini")
        if forward.is_true("check_recipient"):
            origins |= {one: forward.origin("check_recipient") for one in own if one not in origins}
        for pattern in self._haraka.lines("host_list_regex"):
            domain = re.fullmatch(r"\^?\.\*\\?\.((?:[\w-]+\\?\.)+[\w-]+)\$?", pattern)
            if domain:
                origins[f"*.{domain[1].replace(chr(92), '').lower()}"] = "host_list_regex"
            else:
                text = "domains are names, or *.names below one"
                self._draft.leave("decide", f"host_list_regex: {pattern}", text, "Write them into [domains]")
        sources = self._recipients(default)
        for name, origin in origins.items():
            try:
                parse_domain(name.removeprefix("*."))
            except ValueError as error:
                self._draft.leave("missing", f"{origin}: {name}", str(error))
                continue
            section = self._draft.section("domains", name)
            section.set("route", own.get(name, default), origin)
            section.set("recipients", sources)
        if not origins:
            self._draft.leave("decide", "host_list", "it names no domain: mail for nobody is taken", "Add [domains]")
        used = {section.values["route"] for section in self._draft.below("domains")}
        for name, route in own.items():
            if route not in used:
                section = self._draft.section("routing", "recipients")
                section.set(name, route, "smtp_forward.ini")

    def _recipients(self, default: str) -> str:
        asking = [one for one in self._plugins if one.startswith("rcpt_to.") and one != "rcpt_to.in_host_list"]
        asking += [
            one for one in self._plugins if one in ("qmail-deliverable", "rcpt-ldap", "recipient-routes", "ldap")
        ]
        proxies = "queue/smtp_proxy" in self._plugins
        if asking:
            section: Section = self._draft.section("recipients", "asked")
            section.set("kind", "callout", ", ".join(asking))
            section.set("route", default)
            text = "who exists is asked of the server behind instead"
            for one in asking:
                self._draft.leave("differs", one, text, "ldap, sql, http or a list know it, too: [recipients.NAME]")
            return "asked"
        if not proxies:
            text = "takes mail for any address of its domains, as it did; what is refused later has to be returned"
            self._draft.leave("differs", "rcpt_to.in_host_list", text, "Name a [recipients.NAME]")
        return "any"

    def _aliases(self) -> None:
        if "aliases" not in self._plugins:
            return
        name = next((one for one in ("aliases", "aliases.json") if self._haraka.has(one)), "aliases")
        self._haraka.read.add(name)
        try:
            found = json.loads(read_text(self._haraka.folder / name))
        except (ReadingError, ValueError, RecursionError):
            self._draft.leave("decide", name, "it cannot be read as JSON", "Write [aliases.NAME] by hand")
            return
        lines = []
        for key, rule in found.items() if isinstance(found, dict) else ():
            lines += self._alias(str(key), rule)
        if not lines:
            return
        section = self._draft.section("aliases", "aliases")
        section.set("kind", "map", name)
        section.set("path", self._draft.file("aliases", lines))
        for domain in self._draft.below("domains"):
            domain.set("aliases", ["aliases"], name)

    def _alias(self, key: str, rule: object) -> list[str]:
        action = rule.get("action") if isinstance(rule, dict) else None
        to = rule.get("to") if isinstance(rule, dict) else None
        targets = [to] if isinstance(to, str) else to if isinstance(to, list) else []
        if action not in ("alias", "expand") or not all(_is_mailbox(one) for one in targets) or not targets:
            text = f"{action} with these targets is not known"
            self._draft.leave("missing", f"aliases: {key}", text, "To drop: a rule of access, deny recipient")
            return []
        keys = [key] if "@" in key else [f"{key}@{section.path[-1]}" for section in self._draft.below("domains")]
        good = [one for one in keys if _is_mailbox(one)]
        if len(good) < len(keys):
            self._draft.leave("missing", f"aliases: {key}", "is no address that an alias can have")
        return [f"{one} {', '.join(targets)}" for one in good]

    def _internet(self) -> None:
        ini = self._haraka.ini("outbound.ini")
        section = self._draft.section("routes", "internet")
        section.set("transport", "smtp", "outbound")
        is_on = ini.is_true("enable_tls", default=True)
        section.set("tls", "opportunistic" if is_on else "off", ini.origin("enable_tls"))
        if seconds := ini.number("connect_timeout"):
            section.set("connect_timeout", format_duration(seconds), ini.origin("connect_timeout"))
        if (most := ini.number("pool_concurrency_max")) and most >= 1:
            section.set("connections", int(most), ini.origin("pool_concurrency_max"))
        if ini.get("ipv6_enabled") and not ini.is_true("ipv6_enabled"):
            section.set("ipv6", False, ini.origin("ipv6_enabled"))
        waits = _waits(ini.get("temp_fail_intervals"))
        if waits:
            retry = self._draft.section("routes", "internet", "retry")
            retry.set("first", format_duration(waits[0]), ini.origin("temp_fail_intervals"))
            retry.set("longest", format_duration(max(waits)))
            retry.set("expire", format_duration(sum(waits)))
            text = "waits are doubled up to the longest; the time in all is that of the list"
            self._draft.leave("differs", ini.origin("temp_fail_intervals"), text)
        else:
            text = f"a mail is given up after five days, not after about {_DEFAULT_EXPIRE // 86400}"
            self._draft.leave("differs", "outbound.ini", text, "See expire of the route")
        if ini.is_true("disabled"):
            text = "delivery was switched off"
            self._draft.leave("decide", ini.origin("disabled"), text, "mailgate queue suspend does that")

    def _forced(self) -> None:
        ini = self._haraka.ini("relay.ini")
        if "relay" not in self._plugins:
            return
        forces, dest = ini.is_true("force_routing", "relay", default=True), ini.is_true("dest_domains", "relay")
        if not (forces or dest):
            return
        found = self._haraka.ini("relay_dest_domains.ini")
        for domain, values in found.items("domains"):
            try:
                rule = json.loads(values[-1])
            except ValueError:
                rule = {}
            hop = rule.get("nexthop") if isinstance(rule, dict) else None
            if forces and isinstance(hop, str):
                name = slug(f"to-{domain}")
                section = self._draft.section("routes", name)
                section.set("transport", "smtp", found.origin(domain, "domains"))
                section.set("hosts", [hop])
                routing = self._draft.section("routing")
                if domain != "any":
                    self._draft.section("routing", "recipients").set(domain.lower(), name, found.name)
                elif routing.values.get("default") == "internet":
                    routing.set("default", name, f"{found.name} any")
            if dest:
                text = "a domain that anybody may send to through us is one of [domains]"
                self._draft.leave("decide", f"{found.name}: {domain}", text, "Add it there if it is yours")


def read_delivery(haraka: Haraka, plugins: list[str]) -> None:
    """Everything about where mail goes."""
    Delivery(haraka, plugins).read()


def trusted(haraka: Haraka) -> list[str]:
    """The networks that may relay."""
    found = []
    for line in haraka.lines("relay_acl_allow"):
        try:
            network = parse_network(line)
        except ValueError as error:
            haraka.draft.leave("decide", f"relay_acl_allow: {line}", str(error), "Add it to trusted_networks")
            continue
        if is_everybody(network):
            text = "is half of the Internet or more, and would make an open relay: it is left out"
            haraka.draft.leave("decide", f"relay_acl_allow: {line}", text, "Name your own networks")
        else:
            found.append(str(network))
    return found


def _waits(text: str) -> list[int]:
    found: list[int] = []
    for one in text.split(",") if text else ():
        match = _SPAN.fullmatch(one)
        if not match:
            return []
        found += [int(match[1]) * _SECONDS[match[2]]] * min(int(match[3] or 1), 1000)
    return found if found and all(found) else []


def _is_mailbox(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(Address.parse(value)) and " " not in value and "#" not in value
    except AddressError:
        return False
