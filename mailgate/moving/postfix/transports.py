"""Where a Postfix sends mail to: [routes] and [routing], with TLS, logins and schedules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address

from mailgate.address import Address, AddressError
from mailgate.config.hosts import parse_host
from mailgate.config.units import format_duration
from mailgate.moving.draft import Section
from mailgate.moving.files import slug
from mailgate.moving.postfix.closed import Closed
from mailgate.moving.postfix.reading import Parameters, Service
from mailgate.moving.postfix.security import route_security
from mailgate.moving.postfix.site import Site
from mailgate.moving.postfix.tables import Entry, Question, Table, Unreadable

__all__ = ["read_transports"]

_CLASS_TRANSPORT = {"local": "local_transport", "virtual": "virtual_transport", "relay": "relay_transport"}
#: Entries of transport_maps that are taken over.
_MOST = 100_000
_MAILDIR = "/var/lib/mailgate/mailboxes/{domain}/{local_part}"


def read_transports(site: Site) -> None:
    """Routes for each class of domains, for those that transport_maps names, for senders, and for the rest."""
    _Routes(site).read()


class _Routes:
    """Makes each route once, by its transport and next hop."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._draft = site.draft
        self._known: dict[tuple[str, str, str], str] = {}
        self._closed = Closed(site)
        self._for_all = ""  # the route of the key *, where that names a transport for all classes
        self._transports = {one.name: one for one in site.services if one.kind == "unix"}

    def read(self) -> None:
        """Everything, in the order in which the file is to have it."""
        for kind in ("local", "virtual", "relay"):
            if kind in self._site.local.values():
                self._class(kind)
        self._default()
        if "alias" in self._site.local.values():
            section = self._draft.section("routes", "alias")
            section.comment("For domains of aliases: only a postmaster who is no alias comes here.")
            section.set("transport", "maildir", "virtual_alias_domains")
            section.set("path", _MAILDIR)
            text = "its postmasters are always reachable: who is no alias has mail in mailboxes/"
            self._draft.leave("differs", self._site.parameters.origin("virtual_alias_domains"), text, "Make aliases")
        self._maps()
        for setting in ("sender_dependent_relayhost_maps", "sender_dependent_default_transport_maps"):
            self._senders(setting)
        self._closed.refuse()
        self._prune()

    def _prune(self) -> None:
        """Take out what nobody names: a class whose domains all have routes of their own."""
        draft = self._draft
        used = {section.values.get("route") for section in (*draft.below("domains"), *draft.below("recipients"))}
        used |= {draft.section("routing").values.get("default")}
        for kind in ("recipients", "senders"):
            used |= set(draft.section("routing", kind).values.values()) if draft.has("routing", kind) else set()
        unused = [one.path[1] for one in draft.below("routes") if one.path[1] not in used]
        for name in unused:
            draft.remove("routes", name)
        if draft.has("routes", "relay"):
            section = draft.section("routes", "relay")
            if not section.values.get("hosts") and section.values.get("transport") == "smtp":
                text = "its domains go by MX, which leads back to this machine"
                draft.decide(section, "relay_domains", text, "Write the servers behind into hosts")

    def _class(self, kind: str) -> None:
        parameters = self._site.parameters
        setting = _CLASS_TRANSPORT[kind]
        transport, _, hop = parameters.get(setting).partition(":")
        if kind == "local":
            for other in ("mailbox_transport", "mailbox_transport_maps", "fallback_transport", "mailbox_command"):
                if other == "mailbox_transport" and parameters.get(other):
                    setting = other
                    transport, _, hop = parameters.get(other).partition(":")
                elif parameters.get(other):
                    text = "single mailboxes and commands have no route of their own"
                    self._draft.leave("missing", parameters.origin(other), text)
        if kind == "relay" and not hop and transport in ("relay", "smtp"):
            hop = parameters.get("relayhost")
            setting = "relayhost" if hop else setting
        self._route(kind, transport, hop, parameters.origin(setting), kind)

    def _default(self) -> None:
        parameters = self._site.parameters
        transport, _, hop = parameters.get("default_transport").partition(":")
        setting = "default_transport"
        if not hop and parameters.get("relayhost"):
            hop, setting = parameters.get("relayhost"), "relayhost"
        if transport in ("error", "retry"):
            text = "mail to other domains is refused (550 5.4.4)"
            self._draft.leave("differs", parameters.origin(setting), text)
            return
        if self._route("internet", transport, hop, parameters.origin(setting), "internet"):
            self._draft.section("routing").set("default", "internet", parameters.origin(setting))

    def _maps(self) -> None:
        entries: dict[str, Entry] = {}
        for table in self._tables("transport_maps"):
            for entry in table.entries:
                entries.setdefault(entry.key.lower(), entry)  # the first one counts
        if len(entries) > _MOST:
            text = f"it has {len(entries)} entries, and more than {_MOST} do not stand in a configuration"
            advice = "Until then such mail goes as its domain does: give most of them a domain of their own"
            self._draft.leave("decide", self._site.parameters.origin("transport_maps"), text, advice)
            return
        for entry in entries.values():
            self._transport_entry(entry)
        self._closed.spare(entries)
        if self._for_all:
            self._everywhere(entries, self._for_all)

    def _everywhere(self, entries: Mapping[str, Entry], route: str) -> None:
        """What stands behind the key * is for our own domains as well, if they have no entries."""
        for domain, kind in self._site.local.items():
            name = domain.removeprefix("*")
            own = {name, *(f".{'.'.join(parts)}" for parts in _above(name.removeprefix(".")))}
            if kind != "alias" and not own & entries.keys():
                self._draft.section("domains", domain).set("route", route, entries["*"].origin)

    def _tables(self, setting: str) -> list[Table]:
        found = []
        for table in self._site.listed(setting):
            content = table.content
            if table.rules or isinstance(content, Question | Unreadable):
                why = content.why if isinstance(content, Unreadable) else "only lists can be taken over"
                where = f"{self._site.parameters.origin(setting)}: {table.name}"
                self._draft.leave("decide", where, why, "Write its entries into [routing] by hand")
            else:
                found.append(table)
                self._site.use(self._site.parameters, setting)
        return found

    def _transport_entry(self, entry: Entry) -> None:
        key = entry.key.lower()
        transport, _, hop = entry.value.partition(":")
        transport, hop = transport.strip(), hop.strip()
        routing = self._draft.section("routing")
        if not transport and not hop:
            return  # as without an entry
        service = self._transports.get(transport)
        if transport in ("error", "retry") or (service is not None and service.command == "error"):
            self._closed.add(key, hop, entry, for_now=transport == "retry")
            return
        pattern = f"*{key}" if key.startswith(".") else key
        ours = pattern in self._site.local and "@" not in pattern
        if key != "*" and not ours and not (_is_address(key) or self._site.is_domain(key.removeprefix("."))):
            self._draft.leave("missing", f"{entry.origin}: {key}", "is neither an address nor a domain")
            return
        kind = self._site.local.get(key.rpartition("@")[2], "internet")
        name = self._route(slug(f"to-{key}"), transport or self._name_of(kind), hop, entry.origin, kind)
        if not name:
            return
        if key == "*":
            routing.set("default", name, entry.origin)
            self._for_all = name if transport else ""
            if not transport and any(one != "alias" for one in self._site.local.values()):
                text = "a next hop alone is one for every class of domains in Postfix, and ours keep their routes"
                self._draft.leave("differs", f"{entry.origin}: *", text, "Write it into hosts of these routes")
        elif ours:
            self._draft.section("domains", pattern).set("route", name, entry.origin)
        else:
            section = self._draft.section("routing", "recipients")
            if pattern not in section.values:
                section.set(pattern, name, entry.origin)

    def _name_of(self, kind: str) -> str:
        """The transport of a class, where an entry names a next hop alone."""
        setting = _CLASS_TRANSPORT.get(kind, "default_transport")
        return self._site.parameters.get(setting).partition(":")[0] or "smtp"

    def _senders(self, setting: str) -> None:
        for table in self._tables(setting):
            for entry in table.entries:
                key = entry.key.lower()
                if setting.startswith("sender_dependent_relayhost"):
                    transport, hop = "smtp", entry.value
                else:
                    transport, _, hop = entry.value.partition(":")
                if hop == "DUNNO" or transport == "DUNNO" or key in ("", "<>"):
                    continue
                pattern = key.removeprefix("@")
                if not (_is_address(pattern) or self._site.is_domain(pattern)):
                    self._draft.leave("missing", f"{entry.origin}: {key}", "is neither an address nor a domain")
                elif name := self._route(slug(f"from-{pattern}"), transport, hop, entry.origin, "internet", key):
                    self._draft.section("routing", "senders").set(pattern, name, entry.origin)

    def _route(self, name: str, transport: str, hop: str, origin: str, kind: str, sender: str = "") -> str:
        """The name of the route for this transport and next hop, made where it is not there; "" where none can be."""
        is_own = name in ("internet", *_CLASS_TRANSPORT)
        if (transport, hop, sender) in self._known and not is_own:
            return self._known[transport, hop, sender]
        service = self._transports.get(transport)
        command = service.command if service else transport
        parameters = self._site.parameters.of(service) if service else self._site.parameters
        if service is not None:
            self._site.made.add(service.origin)
        name = self._free(name)
        if command in ("smtp", "lmtp", "relay"):
            self._server(name, command, hop, origin, parameters, service, sender)
        elif command == "discard":
            section = self._draft.section("routes", name)
            section.set("transport", "discard", origin)
        elif command in ("local", "virtual"):
            self._mailboxes(name, command, origin)
        elif kind == "internet" and name != "internet":
            text = f"there is no transport {command}: programs and errors are none"
            self._draft.leave("missing", f"{origin}: {transport}:{hop}", text)
            return ""
        else:
            self._placeholder(name, transport, origin)
        self._known[transport, hop, sender] = name
        return name

    def _free(self, name: str) -> str:
        number, free = 1, name
        while self._draft.has("routes", free):
            number += 1
            free = f"{name}-{number}"
        return free

    def _server(
        self,
        name: str,
        command: str,
        hop: str,
        origin: str,
        parameters: Parameters,
        service: Service | None,
        sender: str,
    ) -> None:
        section = self._draft.section("routes", name)
        section.set("transport", "lmtp" if command == "lmtp" else "smtp", origin)
        hosts: tuple[str, ...] = ()
        if hop.startswith("unix:"):
            path = self._site.path(hop.removeprefix("unix:"), parameters)
            hosts = (f"unix:{path}",)
            text = f"mailgate's user must be able to write to {path}"
            self._draft.leave("differs", origin, text, "Look at the mode and the group of the socket")
        elif hop:
            found = self._site.next_hop(hop.removeprefix("inet:"), origin)
            hosts = found.hosts
            if found.by_mx and command != "lmtp" and not _is_literal(hosts):
                text = f"{hop} is looked up by MX first, and hosts in our file never are"
                self._draft.leave("decide", origin, text, "Write the mail servers themselves into hosts")
                section.comment(f"DECIDE: {text}")
        good = [host for host in hosts if _is_host(host)]
        if command == "lmtp" and not good:
            section.comment("DECIDE: where the mailbox server listens.")
            self._draft.leave("decide", origin, "LMTP without a host goes by MX, which there is not here")
            good = ["127.0.0.1:24"]
        if good:
            section.set("hosts", list(good))
        if service is not None and service.own:
            section.comment(f"With the settings of {service.name} in {service.origin}.")
        if "all" not in parameters.words("inet_protocols") and "ipv6" not in parameters.words("inet_protocols"):
            section.set("ipv6", False, parameters.origin("inet_protocols"))
        self._client(section, parameters)
        route_security(self._site, section, parameters, hop, sender, is_by_mx=not good)
        _schedule(self._draft.section("routes", name, "retry"), parameters)

    def _client(self, section: Section, parameters: Parameters) -> None:
        """What the client of Postfix does with connections."""
        address = parameters.get("smtp_bind_address") or parameters.get("smtp_bind_address6")
        if address and not _is_literal((address,)):
            text = f'"{address}" is no address'
            self._draft.leave("decide", parameters.origin("smtp_bind_address"), text, "See [sources.NAME]")
        elif address:
            source = slug(f"from-{address.replace(':', '-')}")
            own = self._draft.section("sources", source)
            own.set("address6" if ":" in address else "address", address, parameters.origin("smtp_bind_address"))
            own.set("hostname", parameters.get("smtp_helo_name") or parameters.get("myhostname"))
            section.set("pool", source, parameters.origin("smtp_bind_address"))
        elif parameters.is_set("smtp_helo_name"):
            text = "a name of its own in EHLO belongs to an address of its own"
            self._draft.leave("missing", parameters.origin("smtp_helo_name"), text, "See [sources.NAME]")
        for setting in ("smtp_destination_concurrency_limit", "default_destination_concurrency_limit"):
            limit = parameters.number(setting)
            if parameters.is_set(setting) and limit:
                section.set("connections", limit, parameters.origin(setting))
                break
        for setting in ("smtp_destination_rate_delay", "default_destination_rate_delay"):
            if parameters.is_set(setting) and parameters.seconds(setting):
                text = "a pause between deliveries is written as a rate"
                self._draft.leave("decide", parameters.origin(setting), text, "See message_rate of [shaping.NAME]")
        for setting, key in (("smtp_send_xforward_command", "xforward"), ("lmtp_send_xforward_command", "xforward")):
            if parameters.is_yes(setting):
                section.set(key, True, parameters.origin(setting))
        for setting in ("smtp_fallback_relay", "fallback_relay"):
            if parameters.get(setting):
                self._draft.leave("missing", parameters.origin(setting), "a second way is a route", "See fallback")

    def _mailboxes(self, name: str, command: str, origin: str) -> None:
        parameters = self._site.parameters
        section = self._draft.section("routes", name)
        section.set("transport", "maildir", origin)
        base = parameters.get("virtual_mailbox_base")
        forms = {
            form
            for table in self._site.listed("virtual_mailbox_maps")
            for entry in table.entries
            if "@" in entry.key
            for form in [_form(entry)]
        }
        if command == "virtual" and base and len(forms) == 1 and (form := forms.pop()):
            section.set("path", f"{base.rstrip('/')}/{form}", parameters.origin("virtual_mailbox_base"))
            text = "folders belong to mailgate's user, not to those of virtual_uid_maps"
            self._draft.leave("differs", f"{origin}: mailboxes", text, "Better hand over to Dovecot by LMTP")
            return
        section.set("path", _MAILDIR)
        advice = "Give the mailbox server's LMTP socket, or the Maildirs; until then mail is kept in mailboxes/"
        self._draft.decide(section, origin, f"mailgate does not deliver as {command}(8) does", advice)

    def _placeholder(self, name: str, transport: str, origin: str) -> None:
        section = self._draft.section("routes", name)
        section.set("transport", "maildir", origin)
        section.set("path", _MAILDIR)
        advice = "Name another next hop; until then mail is kept in mailboxes/"
        self._draft.decide(section, origin, f"the transport {transport} hands mail to a program", advice)


def _above(name: str) -> Iterator[Sequence[str]]:
    """The domains above a name, each in its parts, the nearest first."""
    parts = name.split(".")
    return (parts[number:] for number in range(1, len(parts)))


def _schedule(section: Section, parameters: Parameters) -> None:
    for setting, key in (
        ("minimal_backoff_time", "first"),
        ("maximal_backoff_time", "longest"),
        ("maximal_queue_lifetime", "expire"),
        ("delay_warning_time", "warn"),
    ):
        unit = {"maximal_queue_lifetime": "d", "delay_warning_time": "h"}.get(setting, "s")
        seconds = parameters.seconds(setting, unit)
        if seconds is not None and (seconds or key == "warn"):
            section.set(key, format_duration(seconds), parameters.origin(setting))


def _form(entry: Entry) -> str:
    """The folder of a mailbox with {domain} and {local_part} in it; "" where it follows no such form."""
    local, _, domain = entry.key.lower().rpartition("@")
    if not entry.value.endswith("/"):
        return ""
    forms: Mapping[str, str] = {f"{domain}/{local}": "{domain}/{local_part}", local: "{local_part}"}
    return forms.get(entry.value.rstrip("/").lower(), "")


def _is_address(text: str) -> bool:
    try:
        return "@" in text[1:] and bool(Address.parse(text))
    except AddressError:
        return False


def _is_host(text: str) -> bool:
    try:
        return bool(parse_host(text, 25))
    except ValueError:
        return False


def _is_literal(hosts: tuple[str, ...]) -> bool:
    """Whether all of these are addresses, with or without a port."""
    for host in hosts:
        try:
            ip_address(parse_host(host if host.count(":") < 2 or host.startswith("[") else f"[{host}]", 25).host)
        except ValueError:
            return False
    return True
