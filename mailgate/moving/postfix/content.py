"""Expressions in headers and bodies, milters and content filters of a Postfix, as filters of ours."""

from __future__ import annotations

import re

from mailgate.config.hosts import parse_host
from mailgate.filters.signature_rules import check_expressions, parse_signature
from mailgate.moving.files import slug
from mailgate.moving.postfix.filters import Pipeline
from mailgate.moving.postfix.reading import Parameters, split_words, unbraced
from mailgate.moving.postfix.site import Site
from mailgate.moving.postfix.tables import Rule, Unreadable
from mailgate.stores.lists import LineError

__all__ = ["checked", "content_filters", "milters"]

#: Our word for an action. What Postfix discards without a word is kept where somebody can see it.
_WORDS = {"REJECT": "reject", "DISCARD": "quarantine", "HOLD": "quarantine", "WARN": "continue", "INFO": "continue"}
_ON_FAILURE = {"accept": "continue", "tempfail": "defer", "reject": "reject", "quarantine": "quarantine"}
_FIELD = re.compile(r"\^([A-Za-z][A-Za-z0-9-]*):(?:\s|\\s|\.)?[*+]?\$?")


def checked(site: Site, pipeline: Pipeline) -> None:
    """The filter signatures for header_checks and body_checks, and edit-headers for what is ignored."""
    parameters = site.parameters
    for setting, where in (("header_checks", "headers"), ("mime_header_checks", "raw"), ("body_checks", "raw")):
        rules = []
        for table in site.listed(setting, parameters):
            origin = f"{parameters.origin(setting)}: {table.name}"
            if not table.rules:
                content = table.content
                why = content.why if isinstance(content, Unreadable) else "only expressions can be taken over"
                site.draft.leave("missing", origin, why, "Write its rules as files of the filter signatures")
            for rule in table.rules:
                if line := _signature(site, rule, where, setting, pipeline):
                    rules.append(line)
        if rules:
            name = setting.replace("_", "-")
            section = site.draft.section("filters", name)
            section.set("kind", "signatures")
            section.set("files", [site.draft.file(f"signatures-{name}", rules)], parameters.origin(setting))
            section.comment("It needs the extra mailgate[content], for expressions in linear time.")
            pipeline.add(name, trusted=True)
    for setting in ("nested_header_checks", "milter_header_checks", "smtp_header_checks", "smtp_body_checks"):
        if parameters.get(setting):
            text = "headers are not changed by expressions on the way out"
            site.draft.leave("missing", parameters.origin(setting), text, "See the filters edit-headers and submission")


def _signature(site: Site, rule: Rule, where: str, setting: str, pipeline: Pipeline) -> str:
    action, _, text = rule.value.partition(" ")
    action = action.upper()
    about = f"{rule.origin}: /{rule.pattern[:60]}/ {action}"
    if action == "DUNNO" or action == "OK":
        site.draft.leave("missing", about, "exceptions from the rules behind it are not known")
        return ""
    if action == "IGNORE" and where == "headers" and (match := _FIELD.fullmatch(rule.pattern)):
        section = site.draft.section("filters", "headers")
        section.extend("strip", [match[1]], rule.origin)
        return ""
    if action not in _WORDS or rule.is_not:
        advice = "See the filter edit-headers" if action in ("IGNORE", "PREPEND", "REPLACE", "STRIP") else ""
        site.draft.leave("missing", about, "there is no such action", advice)
        return ""
    name = f"{setting.split('_')[0]}-{rule.origin.rpartition(':')[2]}"
    # Each line of theirs is one header or one line of the body: ^ and $ are its ends.
    flags = "i" if rule.ignores_case else ""
    pattern = rule.pattern.replace("\\/", "/").replace(" #", " \\x23")
    line = f"{_WORDS[action]} {name} {where} /(?m){pattern}/{flags}"
    try:
        check_expressions([parse_signature(line, 0).rule])
    except (LineError, ValueError, ImportError) as error:
        site.draft.leave("missing", about, f"this expression cannot be used: {error}")
        return ""
    if text and action == "REJECT":
        site.draft.leave("differs", about, f'the sender is not told "{text}"', "See text of the filter")
    if action == "DISCARD":
        site.draft.leave("differs", about, "nothing is dropped without a trace: it goes into quarantine")
    return line


def milters(site: Site, parameters: Parameters, pipeline: Pipeline) -> None:
    """A filter of kind milter for each of smtpd_milters."""
    origin = parameters.origin("smtpd_milters")
    for word in parameters.words("smtpd_milters"):
        first, *settings = split_words(unbraced(word))
        own = {key.strip(): value.strip() for key, _, value in (one.partition("=") for one in map(unbraced, settings))}
        host = _milter_host(site, first, parameters)
        if not host:
            site.draft.leave("decide", f"{origin}: {word}", "is no place of a milter that we know")
            continue
        name = f"milter-{slug(first.rpartition('/')[2].replace(':', '-').removeprefix('inet-'))}"
        section = site.draft.section("filters", name)
        section.set("kind", "milter")
        section.set("servers", [host], origin)
        action = own.get("default_action", parameters.get("milter_default_action"))
        section.set("on_failure", _ON_FAILURE.get(action, "defer"), parameters.origin("milter_default_action"))
        if action not in _ON_FAILURE:
            site.draft.leave("differs", f"milter_default_action = {action}", "mail is deferred while it is away")
        section.set("deadline", "1m")
        section.set("end_timeout", "50s", "milters do their work at the end of the content")
        pipeline.add(name, trusted=True)
    for setting in ("non_smtpd_milters", "milter_macro_daemon_name", "milter_protocol", "milter_mail_macros"):
        if parameters.is_set(setting) and parameters.get(setting):
            if setting == "non_smtpd_milters":
                text = "mail of local programs comes by SMTP, and takes the same filters"
                site.draft.leave("covered", parameters.origin(setting), text)
            else:
                text = "macros are those that Sendmail and Postfix send by themselves"
                site.draft.leave("covered", parameters.origin(setting), text)


def _milter_host(site: Site, text: str, parameters: Parameters) -> str:
    kind, _, rest = text.partition(":")
    if kind in ("unix", "local"):
        return f"unix:{site.path(rest, parameters)}"
    if kind in ("inet", "inet6"):
        port, _, host = rest.partition("@")
        written = f"{host}:{port}" if host else rest
        try:
            parse_host(written, 8891)
        except ValueError:
            return ""
        return written
    return ""


def content_filters(site: Site, parameters: Parameters) -> None:
    """What a scanner that speaks SMTP becomes: nothing by itself, and a word about what stands in its place."""
    for setting in ("content_filter", "smtpd_proxy_filter"):
        value = parameters.get(setting)
        if not value or not parameters.is_set(setting):
            continue
        origin = parameters.origin(setting)
        text = f"a scanner that takes mail by SMTP ({value}) is not asked: until you name one, nothing is scanned"
        advice = "Ask clamd and SpamAssassin or Rspamd themselves: the filters clamav, spamassassin, rspamd, or milter"
        site.draft.leave("decide", origin, text, advice)
    for setting in ("always_bcc", "sender_bcc_maps"):
        if parameters.get(setting):
            text = "no filter sends copies to somebody else"
            advice = "A filter of your own can add a recipient; copies for recipients are aliases"
            site.draft.leave("missing", parameters.origin(setting), text, advice)
