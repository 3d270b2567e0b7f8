"""What `mailgate replay` and `mailgate rehearsal` tell of accounts that differ, for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping

from mailgate.cli.common import printable, when
from mailgate.rehearsal.compare import Comparison, Difference, Side

__all__ = ["told"]

#: What could not be judged is named up to so often.
_LEFT_OUT = 10


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
    for one in comparison.differences:
        yield ""
        yield from _difference(one)
    if comparison.differing > len(comparison.differences):
        yield ""
        yield f"{comparison.differing - len(comparison.differences)} more differ; --show says how many are told."
    yield from _doubts(comparison)


def _table(comparison: Comparison) -> Iterator[str]:
    rows = sorted(comparison.table.items(), key=lambda row: (row[0][0] == row[0][1], -row[1], row[0]))
    width = max((len(was) for (was, _), _ in rows), default=0)
    for (was, now), count in rows:
        yield f"  {count:6}  {was:{width}} > {now}"


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
    if comparison.left_out_count:
        lines.append(f"{comparison.left_out_count} left out:")
        lines += [f"    {printable(name)}: {printable(why)}" for name, why in comparison.left_out[:_LEFT_OUT]]
        if comparison.left_out_count > _LEFT_OUT:
            lines.append("    ...")
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
        "failures": dict(comparison.failures.most_common()),
        "assumed": dict(comparison.assumed.most_common()),
        "differences": [_fields(one) for one in comparison.differences],
        "left_out": comparison.left_out_count,
        "reasons": [{"name": name, "reason": reason} for name, reason in comparison.left_out],
    }


def _fields(one: Difference) -> Mapping[str, object]:
    mail = {name: value for name, value in dataclasses.asdict(one.account).items() if name != "pairs"}
    return mail | dataclasses.asdict(one.pair)
