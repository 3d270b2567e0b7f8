"""The examples that we ship, started as they are but for the lines that are each site's own."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from beside_postfix import settings_in
from dns_parts import Knot
from parts import Gateway

__all__ = ["EXAMPLES", "Example", "adapted", "settings_of", "zones"]

EXAMPLES = Path(__file__).parents[2] / "etc" / "examples"
_MARK = re.compile(r"#.*\byours\b|# yours")
#: What differs from site to site wherever it stands: endpoints, addresses, absolute paths.
_OWN = re.compile(r'"(?:tcp:|unix:|/|https?://|\d+\.\d+\.\d+\.\d+)')


class Example(Gateway):
    """One of them, in the test's own folder. Its destinations may be on this machine."""

    def __init__(self, directory: Path, name: str, changes: Mapping[str, str], ports: Sequence[int]) -> None:
        shutil.copytree(EXAMPLES / name, directory, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
        text = adapted((directory / "mailgate.toml").read_text(), {"/var/lib/mailgate": "state", **changes})
        super().__init__(directory, text, ports)

    def prepare(self) -> Sequence[str]:
        _, *arguments = super().prepare()
        return [sys.executable, str(Path(__file__).with_name("near_mx.py")), *arguments]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONPATH": str(self.directory)}


def adapted(text: str, changes: Mapping[str, str]) -> str:
    """The text with these changes, which are made in marked lines only; AssertionError where one is for none, or a line
    that is not marked holds what is a site's own."""
    lines, used = [], set()
    for line in text.splitlines(keepends=True):
        value, mark, _ = line.partition("# yours")
        if not mark:
            assert line.startswith("#") or not _OWN.search(line), f"not marked: {line}"
            lines.append(line)
            continue
        for old, new in changes.items():
            if old in value:
                used.add(old)
                value = value.replace(old, new)
        lines.append(f"{value}{mark}\n")
    assert used == set(changes), f"no marked line has {set(changes) - used}"
    return "".join(lines)


def settings_of(file: Path, changes: Mapping[str, str]) -> dict[str, object]:
    """The lines for Postfix of an example, with these changes."""
    text = file.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return {**settings_in(text)}


def zones(directory: Path) -> Knot:
    """DNS for everybody in the examples: who is outside has this machine as his MX."""
    here = '@ MX 10 mx\n@ A 127.0.0.1\n@ TXT "v=spf1 ip4:127.0.0.0/8 -all"\nmx A 127.0.0.1\n'
    outside = {name: here.replace("@", name).replace("mx", f"mx.{name}") for name in ("client", "elsewhere")}
    return Knot(directory, {"test": outside["client"], "example": outside["client"] + outside["elsewhere"], "org": ""})
