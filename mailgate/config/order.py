"""Warnings about pipelines: filters that stand before those whose findings they read, or without them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mailgate.config.document import Document
from mailgate.config.locate import Path
from mailgate.config.problems import Problems
from mailgate.config.schema import Config

__all__ = ["advise_on_order"]

_CONNECTION = ("dnsbl", "fcrdns", "geo", "helo")
_SENDER = ("spf", "resolvable")
_CONTENT = ("dkim", "arc", "dmarc")

#: By kind: the kinds whose findings it reads, and what it does with them.
_READS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "dmarc": (("spf", "dkim", "arc"), "whose results it judges by"),
    "score": ((*_CONNECTION, *_SENDER, "reputation", *_CONTENT), "whose findings it weighs"),
    "authentication-results": (("fcrdns", "spf", *_CONTENT), "whose results it tells"),
    "reputation": (("geo", "spf", "dkim"), "by whose results it knows networks and domains"),
    "greylist": (("spf", "reputation"), "by which it knows who need not wait"),
    "tarpit": (("dnsbl", "fcrdns", "helo"), "for whose findings it lets clients wait"),
    "rate-limit": (("geo",), "by which it knows country and network"),
    "compromised": (("geo",), "by which it knows countries"),
    "null-sender": (("batv",), "by which it knows answers to mail of ours"),
    "arc-seal": (("fcrdns", "spf", *_CONTENT), "whose results it seals"),
    "batv": (("verp",), "whose return paths it leaves as they are"),
    "suppressions": (("stream",), "by which it knows whose mail a recipient does not want"),
    "list-unsubscribe": (("stream",), "by which its links end the mail of a stream"),
    "feedback": (("verp", "batv", "dkim"), "by which it knows what reports to believe"),
}
#: Options of a filter that make it read what it otherwise does not; the word stands in one of their values.
_ONLY_WITH = {("rate-limit", "geo"): ("rules", ("asn", "country"))}
#: What a filter cannot do its work without, and what is missing then.
_NEEDS = {
    ("dmarc", "spf"): "mail that only SPF proves fails",
    ("dmarc", "dkim"): "forwarded mail, of which a signature proves the author, fails",
    ("arc-seal", "arc"): "mail that has a chain already is not sealed",
}
_SIGNERS = ("dkim-sign", "arc-seal")
#: Filters that change the body, or fields that signatures cover, and the options without which they do not.
_CHANGERS: Mapping[str, tuple[str, ...]] = {
    "attachments": (),
    "banner": (),
    "command": (),
    "edit-headers": (),
    "header-firewall": (),
    "headers": ("add", "add_missing", "rename", "strip"),
    "http": (),
    "list-unsubscribe": (),
    "milter": (),
    "rspamd": (),
    "spamassassin": ("take",),
    "submission": (),
}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a filter stands in a pipeline: its group, and the place for a warning."""

    name: str
    kind: str
    group: int
    path: Path


def advise_on_order(config: Config, document: Document, problems: Problems) -> None:
    """Warn of what a pipeline does otherwise than it reads."""
    pipelines: dict[str, list[_Place]] = {}
    for name, path in document.pipeline_filters():
        place = _Place(name, document.kind_of(name), int(path[3]), path)
        pipelines.setdefault(str(path[1]), []).append(place)
    for places in pipelines.values():
        for place in places:
            _readers(config, place, places, problems)
            _missing(config, place, places, problems)
        _strangers(places, problems)
        _told(places, problems)
        _left(config, places, problems)
        _signed(config, places, problems)


def _readers(config: Config, place: _Place, places: list[_Place], problems: Problems) -> None:
    kinds, why = _READS.get(place.kind, ((), ""))
    in_time = {one.kind for one in places if one.group < place.group}
    late = [
        one.name
        for one in places
        if one.kind in kinds and one.kind not in in_time and _is_read(config, place, one.kind)
    ]
    if late:
        problems.warn(place.path, f"{place.name} does not stand behind {', '.join(late)}, {why}")


def _is_read(config: Config, place: _Place, kind: str) -> bool:
    if (place.kind, kind) not in _ONLY_WITH:
        return True
    option, words = _ONLY_WITH[place.kind, kind]
    return any(word in text for text in _texts(config.filter(place.name).own.get(option)) for word in words)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _missing(config: Config, place: _Place, places: list[_Place], problems: Problems) -> None:
    kinds = {one.kind for one in places}
    for (kind, needed), what in _NEEDS.items():
        if kind == place.kind and needed not in kinds:
            problems.warn(place.path, f"{place.name} has no {needed} before it in this pipeline: {what}")
    own = config.filter(place.name).own
    if place.kind == "dmarc" and own.get("trusted_sealers") and "arc" not in kinds:
        problems.warn(
            ("filters", place.name, "trusted_sealers"), "has no effect: no filter of kind arc is in its pipeline"
        )
    if place.kind == "rate-limit" and "geo" not in kinds and _is_read(config, place, "geo"):
        problems.warn(("filters", place.name, "rules"), "counts by asn or country, but geo is not in its pipeline")


def _strangers(places: list[_Place], problems: Problems) -> None:
    """Whoever writes to an address that does not exist must not be told to come back."""
    recipients = min((one.group for one in places if one.kind == "recipients"), default=None)
    for place in places:
        if place.kind == "greylist" and recipients is not None and place.group < recipients:
            text = "stands before recipients: mail to addresses that do not exist is deferred before it is refused"
            problems.warn(place.path, f"{place.name} {text}")


def _told(places: list[_Place], problems: Problems) -> None:
    """A report that has been told of, and put somebody on the list, must not be refused behind."""
    for place in places:
        later = [one.name for one in places if one.group > place.group and one.kind != "feedback"]
        if place.kind == "feedback" and later:
            text = f"stands before {', '.join(later)}, which may refuse a report that it has told of: put it last"
            problems.warn(place.path, f"{place.name} {text}")


def _left(config: Config, places: list[_Place], problems: Problems) -> None:
    """Who has left by a link of ours must get nothing more."""
    ours = f"{(config.http.url or '').rstrip('/')}/unsubscribe/"
    kinds = {one.kind for one in places}
    for place in places:
        link = str(config.filter(place.name).own.get("link", "")) if place.kind == "list-unsubscribe" else ""
        if link.startswith(ours) and config.http.url is not None and "suppressions" not in kinds:
            text = "has no suppressions beside it in this pipeline: who leaves by its links gets mail all the same"
            problems.warn(place.path, f"{place.name} {text}")


def _signed(config: Config, places: list[_Place], problems: Problems) -> None:
    """What is changed behind a signature breaks it; modifiers are asked in their order, those of one group too."""
    signers: list[str] = []
    for place in places:
        if place.kind in _SIGNERS:
            signers.append(place.name)
        elif signers and _changes(config, place):
            text = f"stands behind {', '.join(signers)}, and may change what is signed, so that the signature fails"
            problems.warn(place.path, f"{place.name} {text}")
        if place.kind == "dkim-sign" and config.filter(place.name).on_failure == "continue":
            text = 'lets mail go without a signature where a key cannot be had: on_failure is "continue"'
            problems.warn(place.path, f"{place.name} {text}")
    kinds = {one.kind for one in places}
    for place in places:
        if place.kind == "list-unsubscribe" and not kinds & {"dkim-sign", "milter"}:
            text = "has no dkim-sign behind it in this pipeline: nobody believes fields that are not signed"
            problems.warn(place.path, f"{place.name} {text}")
        if place.kind == "batv" and any(one.kind == "recipients" and one.group < place.group for one in places):
            text = "stands behind recipients, which does not know tagged addresses and refuses them"
            problems.warn(place.path, f"{place.name} {text}")


def _changes(config: Config, place: _Place) -> bool:
    options = _CHANGERS.get(place.kind)
    return options is not None and (not options or any(map(config.filter(place.name).own.get, options)))
