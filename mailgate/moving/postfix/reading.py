"""main.cf and master.cf as postconf(5) and master(5) describe them; bounded, as anything may stand there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from mailgate.moving.files import ReadingError
from mailgate.moving.postfix.defaults import DEFAULTS

__all__ = [
    "Parameters",
    "Service",
    "Setting",
    "is_below",
    "logical_lines",
    "read_main",
    "read_master",
    "split_words",
    "unbraced",
]

#: Names inside names, and characters of one value, and of a condition in it.
_DEEPEST, _LONGEST = 30, 1024 * 1024
_LONGEST_CONDITION = 4096
#: Settings of a main.cf; services, and settings of one.
_SETTINGS, _SERVICES = 10_000, 1000
_NAME = re.compile(r"[A-Za-z0-9_]+")
_SETTING = re.compile(r"([A-Za-z0-9_.-]+)\s*=\s*(.*)", re.DOTALL)
_SUM = re.compile(r"\s*\{(.*?)\}\s*(==|!=|<=|>=|<|>)(level)?\s*\{(.*?)\}\s*\Z", re.DOTALL)
_OPPOSITE = {"}": "{", ")": "("}
_DURATION = re.compile(r"(\d{1,12})\s*([smhdw]?)", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True, slots=True)
class Setting:
    """A value as it stands there, and where: "main.cf:12"."""

    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class Service:
    """An entry of master.cf; `own` are the settings of its -o options, and `is_chrooted` says whether paths begin at
    Postfix's queue for it."""

    name: str
    kind: str
    command: str
    arguments: str
    own: Mapping[str, str]
    origin: str
    is_chrooted: bool = False


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with those that continue them, which begin with space; comments and empty lines are none."""
    number, parts = 0, list[str]()
    for count, line in enumerate(text.split("\n"), 1):
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        if line[0].isspace() and parts:
            parts.append(bare)
            continue
        if parts:
            yield number, " ".join(parts)
        number, parts = count, [bare]
    if parts:
        yield number, " ".join(parts)


def read_main(text: str, name: str = "main.cf") -> dict[str, Setting]:
    """The settings of a main.cf; of one that stands there twice the last counts."""
    found: dict[str, Setting] = {}
    for number, line in logical_lines(text):
        match = _SETTING.fullmatch(line)
        if not match:
            raise ReadingError(f'{name}:{number}: "{line[:60]}" is no NAME = VALUE')
        found[match[1]] = Setting(match[2].strip(), f"{name}:{number}")
        if len(found) > _SETTINGS:
            raise ReadingError(f"{name}: has more than {_SETTINGS} settings")
    return found


def read_master(text: str, name: str = "master.cf", *, chroots: bool = False) -> list[Service]:
    """The services of a master.cf; `chroots` is what a dash means in its column."""
    found = []
    for number, line in logical_lines(text):
        fields = line.split(None, 7)
        if len(fields) < 8:
            raise ReadingError(f'{name}:{number}: "{line[:60]}" has {len(fields)} of the 8 columns of a service')
        command, *rest = fields[7].split(None, 1)
        own, arguments = _options("".join(rest))
        is_chrooted = fields[4] == "y" or (fields[4] == "-" and chroots)
        found.append(Service(fields[0], fields[1], command, arguments, own, f"{name}:{number}", is_chrooted))
        if len(found) > _SERVICES or len(own) > _SERVICES:
            raise ReadingError(f"{name}:{number}: more than {_SERVICES} services, or options of one")
    return found


def _options(text: str) -> tuple[dict[str, str], str]:
    own: dict[str, str] = {}
    words, others = split_words(text, commas=False), list[str]()
    while words:
        word = words.pop(0)
        if word.startswith("-o"):
            option = word[2:] or (words.pop(0) if words else "")
            key, _, value = unbraced(option).partition("=")
            own[key.strip()] = value.strip()
        else:
            others.append(word)
    return own, " ".join(others)


def split_words(text: str, *, commas: bool = True) -> list[str]:
    """Words with commas or space between them, or space alone; what stands in braces is one."""
    words, current, depth = [], "", 0
    for one in text:
        depth += (one == "{") - (one == "}")
        if depth <= 0 and (one.isspace() or (commas and one == ",")):
            if current:
                words.append(current)
            current = ""
        else:
            current += one
    return [*words, current] if current else words


def unbraced(text: str) -> str:
    """A word without the braces around it."""
    return text[1:-1].strip() if text.startswith("{") and text.endswith("}") else text


@dataclass
class Parameters:
    """Settings with `$name` replaced, over the defaults of Postfix. What was looked at is remembered in `used`: what
    somebody has `asked` for, and what others' values name (`expanded`)."""

    settings: Mapping[str, Setting]
    asked: set[str] = field(default_factory=set)
    expanded: set[str] = field(default_factory=set)
    own: Mapping[str, str] = field(default_factory=dict)
    own_origin: str = ""
    hostname: str = "localhost"
    folder: str = "/etc/postfix"
    is_chrooted: bool = False

    @property
    def used(self) -> set[str]:
        """What has been looked at."""
        return self.asked | self.expanded

    def of(self, service: Service) -> Parameters:
        """The same for a service, whose own settings go before."""
        return replace(self, own=service.own, own_origin=service.origin, is_chrooted=service.is_chrooted)

    def is_set(self, name: str) -> bool:
        """Whether it is given, so that no default counts."""
        return name in self.own or name in self.settings

    def line(self, name: str) -> str:
        """Where the value stands: "main.cf:12", or "default"."""
        if name in self.own:
            return self.own_origin
        return self.settings[name].origin if name in self.settings else "default"

    def origin(self, name: str) -> str:
        """Where the value comes from, for comments."""
        return f"{name} ({self.line(name)})"

    def get(self, name: str) -> str:
        """The value with everything replaced; "" where neither it nor a default is known."""
        self.asked.add(name)
        return self._expand(self._raw(name), 0, [0]).strip()

    def default(self, name: str) -> str:
        """What Postfix would have where nothing is given; "" where that is not known here."""
        return self._expand(DEFAULTS.get(name, ""), 0, [0]).strip()

    def is_yes(self, name: str) -> bool:
        """Whether a yes or no is yes."""
        return self.get(name).lower() == "yes"

    def words(self, name: str) -> list[str]:
        """A list; a word in braces keeps them."""
        return split_words(self.get(name))

    def number(self, name: str) -> int | None:
        """A number; None where it is none."""
        text = self.get(name)
        return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None

    def seconds(self, name: str, unit: str = "s") -> int | None:
        """A time, in seconds; `unit` is what counts where none is given. None where it is none."""
        match = _DURATION.fullmatch(self.get(name))
        return int(match[1]) * _SECONDS[match[2] or unit] if match else None

    def _raw(self, name: str) -> str:
        if name in self.own:
            return self.own[name]
        if name in self.settings:
            return self.settings[name].value
        if name == "myhostname":
            return self.hostname
        if name == "config_directory":
            return self.folder
        if name == "mydomain":
            host = self.get("myhostname")
            return host.partition(".")[2] or "localdomain"
        return DEFAULTS.get(name, "")

    def _is_known(self, name: str) -> bool:
        self.expanded.add(name)
        return bool(self._raw(name))

    def _expand(self, text: str, depth: int, spent: list[int]) -> str:
        if depth > _DEEPEST:
            raise ReadingError(f"names lead to names without an end: {text[:60]}")
        out, place = [], 0
        while (dollar := text.find("$", place)) >= 0:
            out.append(text[place:dollar])
            piece, place = self._name(text, dollar + 1, depth, spent)
            spent[0] += len(piece) + 1
            if spent[0] > _LONGEST:
                raise ReadingError(f"a value is longer than {_LONGEST} characters: {text[:60]}")
            out.append(piece)
        return "".join([*out, text[place:]])

    def _value_of(self, name: str, depth: int, spent: list[int]) -> str:
        """What a value that names another has in its place."""
        self.expanded.add(name)
        return self._expand(self._raw(name), depth + 1, spent)

    def _name(self, text: str, start: int, depth: int, spent: list[int]) -> tuple[str, int]:
        """What stands for the name that begins at `start`, and where the text goes on."""
        following = text[start : start + 1]
        if following == "$":
            return "$", start + 1
        if following in ("{", "("):
            end = _closing(text, start)
            return self._inner(text[start + 1 : end], depth, spent), end + 1
        match = _NAME.match(text, start)
        if not match:
            return "$", start
        return self._value_of(match[0], depth, spent), match.end()

    def _inner(self, inner: str, depth: int, spent: list[int]) -> str:
        if inner.lstrip().startswith("{"):
            condition, _, branches = inner.partition("?")
            is_so = self._compares(condition, depth, spent)
            return self._branch(f"?{branches}", depth, spent, is_so=is_so)
        match = _NAME.match(inner.strip())
        if not match:
            return ""
        rest = inner.strip()[match.end() :].lstrip()
        if not rest:
            return self._value_of(match[0], depth, spent)
        return self._branch(rest, depth, spent, is_so=self._is_known(match[0]))

    def _compares(self, condition: str, depth: int, spent: list[int]) -> bool:
        match = _SUM.match(condition) if len(condition) < _LONGEST_CONDITION else None
        if not match:
            return False
        left, right = (self._expand(one.strip(), depth + 1, spent) for one in (match[1], match[4]))
        if match[3] or (left.isdigit() and right.isdigit()):
            order = (_level(left) > _level(right)) - (_level(left) < _level(right))
        else:
            order = (left > right) - (left < right)
        return {
            "==": order == 0, "!=": order != 0, "<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0,
        }[match[2]]  # fmt: skip

    def _branch(self, rest: str, depth: int, spent: list[int], *, is_so: bool) -> str:
        """`?{a}:{b}`, `?a`, `:b`: what counts."""
        if rest.startswith(":"):
            return "" if is_so else self._expand(unbraced(rest[1:].strip()), depth + 1, spent)
        text = rest[1:].strip()
        if not text.startswith("{"):
            return self._expand(text, depth + 1, spent) if is_so else ""
        end = _closing(text, 0)
        after = text[end + 1 :].strip()
        chosen = text[1:end] if is_so else unbraced(after[1:].strip()) if after.startswith(":") else ""
        return self._expand(chosen.strip(), depth + 1, spent)


def _closing(text: str, start: int) -> int:
    """Where the bracket ends that is open at `start`; the end of the text where it does not."""
    opening, depth = text[start], 0
    for place in range(start, len(text)):
        if text[place] == opening:
            depth += 1
        elif _OPPOSITE.get(text[place]) == opening:
            depth -= 1
            if not depth:
                return place
    return len(text)


def is_below(text: str, level: int) -> bool:
    """Whether a compatibility_level is older than this one."""
    return _level(text) < (level,)


def _level(text: str) -> tuple[int, ...]:
    return tuple(int(one) for one in re.findall(r"\d{1,9}", text)[:3])
