"""Tables of Postfix, by their names (hash:/etc/postfix/virtual): read again when they change."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Generic, TypeVar, cast

from twisted.internet.interfaces import IReactorTime

from mailgate.config.postfix import EXPRESSIONS, INDEXED, split_map
from mailgate.stores.lists import FileError, LineError, LinesError, WatchedFile
from mailgate.stores.postfix_rules import Expressions, parse_expressions

__all__ = ["Pair", "PostfixMap", "each", "open_maps"]

T = TypeVar("T")

#: Octets of a table, and seconds that postmap may take for it.
_LARGEST, _LONGEST = 256 * 1024 * 1024, 30.0
#: Octets of what it prints that are read at a time.
_PIECE = 64 * 1024
#: So many wrong lines of a table are told at once.
_TOLD = 10
#: What postmap makes of `hash:NAME`.
_SUFFIXES = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb", "dbm": ".pag", "sdbm": ".pag"}
#: A key in a source: spaces are in it where they are quoted.
_KEY = re.compile(r'(?:[^\s"]|"(?:\\.|[^"\\])*"|")+')
_SYSTEM_PATHS = ":".join(("/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin", "/usr/local/bin"))


@dataclass(frozen=True, slots=True)
class Pair:
    """A key, as it stands there, and what stands behind it."""

    key: str
    value: str


class PostfixMap(Generic[T]):
    """One table: `expressions`, or `pairs`, which is what `parse` has made of its pairs; the other is None.

    `parse` raises LinesError about pairs it cannot use, as `each` does; it may be called in a thread. Construction
    raises FileError where the table cannot be read, and ImportError where it needs RE2 and that is not here. A table
    that cannot be read later, or has become empty, keeps its old content.
    """

    def __init__(self, name: str, parse: Callable[[Iterable[tuple[int, Pair]]], T], clock: IReactorTime) -> None:
        kind, path = split_map(name)
        self._pairs: WatchedFile[T] | None = None
        self._expressions: WatchedFile[Expressions] | None = None
        if kind in EXPRESSIONS:

            def rules(lines: Iterable[tuple[int, str]]) -> Expressions:
                return parse_expressions(lines, kind=kind)

            # Never at once, however small: each line takes long to understand.
            self._expressions = WatchedFile(
                path, rules, clock, keep_filled=True, split=_logical_lines, octets=path.read_bytes
            )
            return

        pair = _printed_pair if kind in INDEXED else _pair

        def pairs(lines: Iterable[tuple[int, str]]) -> T:
            return parse((number, pair(line)) for number, line in lines)

        if kind not in INDEXED:
            self._pairs = WatchedFile(path, pairs, clock, keep_filled=True, split=_logical_lines)
            return
        index = path.with_name(path.name + _SUFFIXES[kind])

        def dump() -> bytes:
            return _dumped(f"{kind}:{path}", index)

        self._pairs = WatchedFile(index, pairs, clock, keep_filled=True, split=_dumped_lines, octets=dump)

    @property
    def pairs(self) -> T | None:
        """What was made of its pairs."""
        return None if self._pairs is None else self._pairs.value

    @property
    def expressions(self) -> Expressions | None:
        """Its expressions."""
        return None if self._expressions is None else self._expressions.value


def each(pairs: Iterable[tuple[int, Pair]], take: Callable[[Pair], None]) -> None:
    """Give each pair to `take`; LinesError, with the first ten, where that raises ValueError."""
    wrong: list[LineError] = []
    for number, pair in pairs:
        try:
            take(pair)
        except ValueError as error:
            if len(wrong) == _TOLD:
                raise LinesError(wrong, more=True) from None
            wrong.append(LineError(number, str(error)))
    if wrong:
        raise LinesError(wrong)


def open_maps(
    names: Iterable[str], parse: Callable[[Iterable[tuple[int, Pair]]], T], clock: IReactorTime
) -> tuple[PostfixMap[T], ...]:
    """The tables of these names; FileError with what is wrong with all of them."""
    made, errors = [], list[str]()
    for name in names:
        try:
            made.append(PostfixMap(name, parse, clock))
        except FileError as error:
            errors += error.errors
    if errors:
        raise FileError(errors)
    return tuple(made)


def _dumped(name: str, index: Path) -> bytes:
    """What `postmap -s` prints of a table."""
    command = shutil.which("postmap") or shutil.which("postmap", path=_SYSTEM_PATHS)
    if command is None:
        raise ValueError("Postfix's postmap, which reads it, is not installed; texthash: reads the source of a table")
    if index.stat().st_size > _LARGEST:
        raise ValueError(_too_large())
    return _printed(command, name)


def _printed(command: str, name: str) -> bytes:
    """What it prints, within bounds of time and memory."""
    content = bytearray()
    with subprocess.Popen(  # noqa: S603  a program of Postfix's, and a name of the configuration
        [command, "-s", name], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            process.kill()

        printed, complaints = cast("IO[bytes]", process.stdout), cast("IO[bytes]", process.stderr)
        alarm = threading.Timer(_LONGEST, give_up)
        alarm.start()
        try:
            while piece := printed.read(_PIECE):
                content += piece
                if len(content) > _LARGEST:
                    raise ValueError(_too_large())
            said = complaints.read(_PIECE).decode(errors="replace").strip().splitlines()
            status = process.wait()
        finally:
            alarm.cancel()
            process.kill()
    if is_late.is_set():
        raise ValueError(f"postmap has not read it in {_LONGEST:.0f} seconds")
    if status:
        raise ValueError(f"postmap cannot read it: {said[-1][:300] if said else f'status {status}'}")
    return bytes(content)


def _too_large() -> str:
    return f"is larger than {_LARGEST // 1024**2} MiB"


def _text(content: bytes) -> str:
    if len(content) > _LARGEST:
        raise ValueError(_too_large())
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LineError(content.count(b"\n", 0, error.start) + 1, "not UTF-8") from error


def _dumped_lines(content: bytes) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(_text(content).split("\n"), 1) if line.strip())


def _logical_lines(content: bytes) -> Iterator[tuple[int, str]]:
    """Lines with those that continue them, which begin with space, by the number of the first; no comments."""
    first, parts = 0, list[str]()
    for number, line in enumerate(_text(content).split("\n"), 1):
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        if not line[0].isspace() and parts:
            yield first, " ".join(parts)
            parts.clear()
        if not parts:
            first = number
        parts.append(bare)
    if parts:
        yield first, " ".join(parts)


def _pair(line: str) -> Pair:
    key = _KEY.match(line)
    end = key.end() if key else 0
    return Pair(line[:end].removesuffix(":"), line[end:].strip())


def _printed_pair(line: str) -> Pair:
    """As postmap prints it: with a tab behind the key, which may hold spaces."""
    key, _, value = line.partition("\t")
    return Pair(key.strip().removesuffix(":"), value.strip())
