"""Tables of Postfix that are questions to a database: the same question in our file."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mailgate.moving.draft import Section, Value
from mailgate.moving.postfix.reading import split_words
from mailgate.moving.postfix.site import Site
from mailgate.moving.postfix.tables import Question, Table

__all__ = ["ask_aliases", "ask_recipients"]

_SQL = {"s": ":address", "u": ":local_part", "d": ":domain"}
_PLAIN = re.compile(r"ldap://(?!localhost[:/]?|127\.|\[::1\])", re.IGNORECASE)
_LDAP = {"s": "{address}", "u": "{local_part}", "d": "{domain}"}


def ask_recipients(site: Site, table: Table, name: str, origin: str) -> str:
    """The name of the [recipients.NAME] that asks as this table does; "" where there can be none."""
    return _ask(site, table, "recipients", name, origin)


def ask_aliases(site: Site, table: Table, name: str, origin: str) -> str:
    """The same for [aliases.NAME]."""
    return _ask(site, table, "aliases", name, origin)


def _ask(site: Site, table: Table, kind: str, name: str, origin: str) -> str:
    question = table.content
    assert isinstance(question, Question)  # noqa: S101  for the type checker
    where = f"{origin}: {table.name}"
    if question.kind == "mysql":
        text = "MySQL is not asked: offer the same as HTTP, PostgreSQL or SQLite"
        site.draft.leave("decide", where, text, f"Until then nobody is known by these {kind}")
        return ""
    unlike = _unlike(question.settings, kind)
    if unlike:
        text = f"{unlike} cannot be said here, and without it the answers would be others"
        site.draft.leave("decide", where, text, f"Until then nobody is known by these {kind}")
        return ""
    values = _ldap(site, question, name, kind) if question.kind == "ldap" else _sql(site, question, name)
    if values is None:
        site.draft.leave("decide", where, f"{question.path.name} has no question that can be taken over")
        return ""
    section: Section = site.draft.section(kind, name)
    for key, value in values.items():
        section.set(key, value, f"{question.path.name}" if key in ("query", "filter") else "")
    section.origins["kind"] = origin
    if values["kind"] == "sql" and kind == "aliases" and "select" in str(values["query"]).lower():
        section.comment("The query has to give a row for each target, or several in one text with commas.")
    return name


def _unlike(settings: Mapping[str, str], kind: str) -> str:
    """The setting without which this table would find others; "" where there is none."""
    asked = f"{settings.get('query', '')} {settings.get('query_filter', '')}"
    if settings.get("domain") and not re.search(r"%[sd]", asked):
        return "domain"  # one of the names alone would be found in any domain
    if "%" in settings.get("search_base", ""):
        return "search_base with %"
    if kind == "aliases" and settings.get("result_format", settings.get("result_filter", "%s")) != "%s":
        return "result_format"
    return ""


def _sql(site: Site, question: Question, name: str) -> dict[str, Value] | None:
    settings = question.settings
    query = _replaced(settings.get("query", ""), _SQL, quoted=True)
    if query is None:
        return None
    if question.kind == "sqlite":
        return {"kind": "sql", "url": f"sqlite:{settings.get('dbpath', '')}", "query": query}
    host = (split_words(settings.get("hosts", "localhost")) or ["localhost"])[0]
    host = host.removeprefix("inet:")
    if host.startswith(("unix:", "/")):
        host = "localhost"
    user = settings.get("user", "postfix")
    values: dict[str, Value] = {"kind": "sql", "url": f"postgresql://{user}@{host}/{settings.get('dbname', '')}"}
    if settings.get("password"):
        values["password_file"] = site.draft.file(f"secrets/{name}.password", [settings["password"]], is_secret=True)
    return values | {"query": query}


def _ldap(site: Site, question: Question, name: str, kind: str) -> dict[str, Value] | None:
    settings = question.settings
    found = _replaced(settings.get("query_filter", "(mailacceptinggeneralid=%s)"), _LDAP, quoted=False)
    attribute = settings.get("result_attribute", "maildrop")
    if found is None:
        return None
    port = settings.get("server_port", "389")
    servers = settings.get("server_host", "localhost").split()
    urls: list[Value] = [one if "://" in one else f"ldap://{one}:{port}" for one in servers]
    values: dict[str, Value] = {"kind": "ldap", "urls": urls}
    if settings.get("start_tls", "no") == "yes":
        values["starttls"] = True
    elif any(_PLAIN.match(str(one)) for one in urls):
        values["starttls"] = True
        text = "a directory on another host is asked under TLS only, so STARTTLS is demanded"
        site.draft.leave("decide", question.path.name, text, "See that it has a certificate, or write ldaps://")
    if settings.get("bind_pw") and settings.get("bind", "yes") != "no":
        values["bind_dn"] = settings.get("bind_dn", "")
        values["bind_password_file"] = site.draft.file(
            f"secrets/{name}.password", [settings["bind_pw"]], is_secret=True
        )
    values |= {"base": settings.get("search_base", ""), "filter": found}
    if kind == "recipients":
        return values | {"snapshot": False}
    return values | {"attributes": list[Value](split_words(attribute))}


def _replaced(text: str, names: dict[str, str], *, quoted: bool) -> str | None:
    """A question with our names in the place of %s, %u and %d; None where it has others, or none at all."""
    pattern = r"'%([a-zA-Z0-9%])'|%([a-zA-Z0-9%])" if quoted else r"()%([a-zA-Z0-9%])"
    found = [match[1] or match[2] for match in re.finditer(pattern, text)]
    if not found or any(one not in names for one in found):
        return None
    return re.sub(pattern, lambda match: names[match[1] or match[2]], text)
