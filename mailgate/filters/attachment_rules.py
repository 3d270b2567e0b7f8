"""What may be wrong with an attachment, and where: rules over what an examination has found."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mailgate.content.kinds import FAMILIES, fits_extension, is_document, matches_kind
from mailgate.content.models import Examination, Member, Part
from mailgate.findings import Finding

__all__ = ["EXTENSIONS", "Action", "AttachmentResult", "Blocked", "Place", "judge"]

Action = Literal["reject", "quarantine", "strip", "tag", "continue"]

#: What Windows, and other systems, run or mount when somebody opens it, and next to nobody sends to others.
EXTENSIONS = (
    "ade",
    "adp",
    "app",
    "appcontent-ms",
    "application",
    "appref-ms",
    "appx",
    "appxbundle",
    "bas",
    "bat",
    "chm",
    "cmd",
    "cnt",
    "com",
    "cpl",
    "diagcab",
    "dll",
    "exe",
    "fxp",
    "gadget",
    "hlp",
    "hpj",
    "hta",
    "img",
    "inf",
    "ins",
    "iqy",
    "iso",
    "isp",
    "jar",
    "jnlp",
    "js",
    "jse",
    "ksh",
    "library-ms",
    "lnk",
    "mad",
    "mam",
    "mcf",
    "mda",
    "mde",
    "mdt",
    "mdw",
    "mdz",
    "msc",
    "msh",
    "msh1",
    "msh2",
    "mshxml",
    "msi",
    "msix",
    "msp",
    "mst",
    "msu",
    "one",
    "ops",
    "osd",
    "pcd",
    "pif",
    "prf",
    "printerexport",
    "ps1",
    "ps1xml",
    "ps2",
    "psc1",
    "psd1",
    "psm1",
    "pyz",
    "pyzw",
    "reg",
    "scf",
    "scr",
    "sct",
    "search-ms",
    "settingcontent-ms",
    "shb",
    "shs",
    "sys",
    "theme",
    "url",
    "vb",
    "vbe",
    "vbp",
    "vbs",
    "vhd",
    "vhdx",
    "vxd",
    "webpnp",
    "website",
    "wim",
    "wsb",
    "wsc",
    "wsf",
    "wsh",
    "xbap",
    "xll",
    "xnk",
)

_WORD = re.compile(r"[^a-z0-9_-]+")
#: Findings about one message.
_MOST = 50


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part lies in the message as received: its header from `start`, its body from `body`, up to `end`.

    `is_message` where it is the message itself, `is_between` where it stands before or behind the parts of another.
    """

    start: int
    body: int
    end: int
    is_message: bool = False
    is_between: bool = False


@dataclass(frozen=True, slots=True)
class AttachmentResult(Finding):
    """Something about a file that a rule is for.

    `kind` is "blocked", "encrypted", "encrypted-document", "macro", "broken", "opaque", "sealed", "mismatch",
    "embedded" or "limits";
    `name` is the file's, with the archives that it is in, `detail` what about it, `action` what the options say, and
    `place` where the part is that holds it, None where that is not known. `owner` is the filter that says so.
    """

    kind: str
    name: str
    detail: str = ""
    action: Action = "continue"
    place: Place | None = None
    owner: object = field(default=None, compare=False, repr=False)

    def summary(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"attachment {self.name or 'without a name'}: {self.kind}{detail}"

    def facts(self) -> Sequence[str]:
        word = _WORD.sub("-", self.detail.lower()).strip("-")[:40] if self.kind in ("blocked", "limits") else ""
        fact = f"attachments.{self.kind}"
        return (fact, f"{fact}.{word}") if word else (fact,)


class Blocked:
    """Extensions, kinds and names that are not wanted. ValueError for what is none."""

    def __init__(self, extensions: Iterable[str], types: Iterable[str], names: Iterable[str]) -> None:
        self._extensions = frozenset(one.lower().lstrip(".") for one in extensions)
        self._types = tuple(one.lower() for one in types)
        for one in self._types:
            if one not in FAMILIES and "/" not in one:
                raise ValueError(f'"{one}" is no MIME type, and none of {", ".join(sorted(FAMILIES))}')
        self._names = [(one, re.compile(fnmatch.translate(one.lower()))) for one in names]

    def why(self, names: Sequence[str], declared: Sequence[str], types: Sequence[str]) -> str:
        """Why a file of these names and types is not wanted; "" where it is."""
        for name in names:
            extension = extension_of(name)
            if extension in self._extensions:
                return extension
        for one in self._types:
            if matches_kind((*declared, *types), one):
                return one
        for name in names:
            for written, pattern in self._names:
                if pattern.fullmatch(name.lower()):
                    return written
        return ""


def extension_of(name: str) -> str:
    """What stands behind the last dot, in lower case."""
    return name.rpartition(".")[2].strip().lower() if "." in name else ""


def judge(
    found: Examination, blocked: Blocked, actions: dict[str, Action], *, in_archives: bool, owner: object
) -> list[AttachmentResult]:
    """What the rules have to say about what was found, of each file the most."""
    results: list[AttachmentResult] = []
    parts = {part.number: part for part in found.parts}
    for part in found.parts:
        for kind, detail in _of(part, part.names, (part.type, *part.also), blocked):
            name = part.names[0] if part.names else part.type
            results.append(AttachmentResult(kind, name, detail, actions[kind], _place(part, parts), owner))
    for member in found.members if in_archives else ():
        for kind, detail in _of(member, (member.name,), (), blocked):
            place = _place(parts[member.part], parts) if member.part in parts else None
            results.append(AttachmentResult(kind, member.path, detail, actions[kind], place, owner))
    results += [
        AttachmentResult("limits", problem.where or "the message", problem.kind, actions["limits"], None, owner)
        for problem in found.problems
    ]
    # The strongest first: a flood of harmless findings must not hide another.
    order = {"reject": 0, "quarantine": 1, "strip": 2, "tag": 3, "continue": 4}
    strong = [one for one in results if one.action == "strip"]
    ordered = sorted(results, key=lambda one: order[one.action])
    return list(dict.fromkeys([*ordered[:_MOST], *strong]))


def _of(
    file: Part | Member, names: Sequence[str], declared: Sequence[str], blocked: Blocked
) -> Iterator[tuple[str, str]]:
    why = blocked.why(names, declared, file.types)
    if why:
        yield "blocked", why
    marks = file.marks
    if "encrypted" in marks:
        is_archive = _is_archive_by_name(names) or not is_document(file.types)
        yield ("encrypted" if is_archive else "encrypted-document"), ""
    if "macro" in marks:
        yield "macro", ""
    if ("broken" in marks and "archive" in marks) or "damaged" in marks:
        yield "broken", ""
    if "opaque" in marks:
        yield "opaque", ", ".join(filter(None, (*declared[:1], *file.types)))[:100]
    if "sealed" in marks:
        yield "sealed", ""
    for mark in ("embedded", "template", "script", "launch"):
        if mark in marks:
            yield "embedded", mark
    for name in names:
        if not fits_extension(file.types, extension_of(name)):
            yield "mismatch", ", ".join(file.types)[:100]
            break


def _is_archive_by_name(names: Sequence[str]) -> bool:
    return any(extension_of(name) in ("zip", "7z", "rar") for name in names)


def _place(part: Part, parts: dict[int, Part]) -> Place | None:
    holder = parts.get(part.holder, part)
    if holder.start < 0:
        return None
    is_between = "preamble" in holder.marks or "epilogue" in holder.marks
    return Place(holder.start, holder.body, holder.end, holder.is_message, is_between)
