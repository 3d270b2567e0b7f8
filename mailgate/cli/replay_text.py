"""What `mailgate replay` and `mailgate rehearsal` tell of accounts that differ, for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping

from mailgate.cli.common import printable, when
from mailgate.rehearsal.compare import KINDS, Comparison, Difference, Kind, Side, kind_of

__all__ = ["told"]

#: What could not be judged is named up to so often, and so many reasons are.
_LEFT_OUT, _REASONS = 10, 20
_TITLES: Mapping[Kind, str] = {
    "not taken any more": "Taken before, and not now: look at these first",
    "taken now": "Taken now, and not before",
    "otherwise": "Otherwise",
}


def told(comparison: Comparison, names: tuple[str, str], *, as_json: bool) -> str:
    """The whole comparison, in words or as JSON; `names` says what the two sides are called."""
    return json.dumps(_as_json(comparison, names), indent=1) if as_json else "\n".join(_account(comparison, names))


def _account(comparison: Comparison, names: tuple[str, str]) -> Iterator[str]:
    yield f"{comparison.mails} mails for {comparison.recipients} recipients: {names[0]} > {names[1]}"
    yield from _table(comparison)
    if comparison.filters:
        told = ", ".join(f"{printable(name)} {count}" for name, count in comparison.filters.most_common())
        yield f"{comparison.differing} recipients differ, by: {told}"
    else:
        yield "No recipient differs."
    yield from _reasons(comparison)
    for one in comparison.differences:
        yield ""
        yield from _difference(one)
    if comparison.differing > len(comparison.differences):
        yield ""
        yield f"{comparison.differing - len(comparison.differences)} more differ; --show says how many are told."
    yield from _doubts(comparison)


def _table(comparison: Comparison) -> Iterator[str]:
    """What nobody will miss comes last."""

    def place(row: tuple[tuple[str, str], int]) -> tuple[bool, int, int, tuple[str, str]]:
        (was, now), count = row
        ends = [words.rpartition(", then ")[2] for words in (was, now)]
        return ends[0] == ends[1], KINDS.index(kind_of(ends[0], ends[1])), -count, (was, now)

    rows = sorted(comparison.table.items(), key=place)
    width = max((len(was) for (was, _), _ in rows), default=0)
    for (was, now), count in rows:
        yield f"  {count:6}  {was:{width}} > {now}"


def _reasons(comparison: Comparison) -> Iterator[str]:
    """Who says what, and how often: those that are taken no more before all others."""
    for kind in KINDS:
        found = [(one, count) for one, count in comparison.reasons.most_common() if one.kind == kind]
        if not found:
            continue
        yield ""
        yield f"{_TITLES[kind]}: {sum(count for _, count in found)}"
        for reason, count in found[:_REASONS]:
            said = f": {printable(reason.text)}" if reason.text else ""
            yield f"  {count:6}  {printable(reason.by)}{said}"
        if len(found) > _REASONS:
            yield f"  {sum(count for _, count in found[_REASONS:]):6}  for {len(found) - _REASONS} more reasons"


def _difference(one: Difference) -> Iterator[str]:
    mail, pair = one.account, one.pair
    sender = printable(mail.sender) or "<>"
    yield f"{when(mail.received)}  {sender} > {printable(pair.recipient)}  {printable(mail.name)}"
    yield f"    from {printable(mail.client)}: {printable(mail.subject) or '(no subject)'}"
    yield f"    was: {_side(pair.was)}"
    yield f"    now: {_side(pair.now)}"


def _side(side: Side) -> str:
    route = f" by route {printable(side.route)}" if side.route and side.outcome == "taken" else ""
    why = f" by {printable(side.by)}" if side.by else ""
    reason = f": {printable(side.reason)}" if side.reason else ""
    reply = f" ({printable(side.reply)})" if side.reply else ""
    return f"{side.words}{route}{why}{reason}{reply}"


def _doubts(comparison: Comparison) -> Iterator[str]:
    """What makes the comparison less sure."""
    lines = [
        f"{printable(name)} could not answer about {count} mails: ask again when it can"
        for name, count in comparison.failures.most_common()
    ]
    lines += [f"{count} mails name {printable(text)}" for text, count in comparison.assumed.most_common()]
    lines += [f"Of {count} mails more nothing is known: {why}" for why, count in comparison.lost.most_common()]
    if comparison.cut:
        lines.append(f"Of {comparison.cut} recipients more nothing is known: their mails had very many")
    if comparison.left_out_count:
        lines.append(f"{comparison.left_out_count} left out:")
        lines += [f"    {printable(name)}: {printable(why)}" for name, why in comparison.left_out[:_LEFT_OUT]]
        if comparison.left_out_count > _LEFT_OUT:
            lines.append("    and so on; in all:")
            reasons = comparison.left_out_reasons.most_common(_LEFT_OUT)
            lines += [f"    {count:6}  {printable(why)}" for why, count in reasons]
    if lines:
        yield ""
        yield from lines


def _as_json(comparison: Comparison, names: tuple[str, str]) -> Mapping[str, object]:
    return {
        "was": names[0],
        "now": names[1],
        "mails": comparison.mails,
        "recipients": comparison.recipients,
        "differing": comparison.differing,
        "table": [
            {"was": was, "now": now, "recipients": count} for (was, now), count in comparison.table.most_common()
        ],
        "filters": dict(comparison.filters.most_common()),
        "kinds": {kind: comparison.kinds[kind] for kind in KINDS},
        "top_reasons": [
            {"kind": one.kind, "by": one.by, "text": one.text, "recipients": count}
            for one, count in comparison.reasons.most_common(_REASONS)
        ],
        "lost": dict(comparison.lost.most_common()),
        "lost_recipients": comparison.cut,
        "failures": dict(comparison.failures.most_common()),
        "assumed": dict(comparison.assumed.most_common()),
        "differences": [_fields(one) for one in comparison.differences],
        "left_out": comparison.left_out_count,
        "reasons": [{"name": name, "reason": reason} for name, reason in comparison.left_out],
    }


def _fields(one: Difference) -> Mapping[str, object]:
    mail = {name: value for name, value in dataclasses.asdict(one.account).items() if name != "pairs"}
    return {"kind": kind_of(one.pair.was.end, one.pair.now.end)} | mail | dataclasses.asdict(one.pair)
