"""Names and domains that are made to look like others'."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

import idna

from mailgate.content.fields import decode_words, visible
from mailgate.mailauth.dmarc.organization import public_suffixes

__all__ = ["LookAlikes", "addresses_shown", "display_name", "domains_in", "has_mixed_scripts", "plain_name", "skeleton"]

#: Characters of a field that are read, and of a domain's label that are compared.
_MOST, _LONGEST_LABEL = 2000, 63
#: Labels that are shorter have too many neighbours.
_SHORTEST = 5

_ADDRESS = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@((?:[\w-]{1,63}\.){1,8}[\w-]{2,63})")
_COMMENT = re.compile(r"\(([^()]*+)\)")
_SPACES = re.compile(r"[\W_]+")

#: Letters of other scripts, digits and signs that look like Latin letters (after Unicode's confusables, UTS 39).
_ALIKE = str.maketrans(
    {
        **dict(zip("авекмнорстухѕіјԁԛԝһӏьп", "abekmhopctyxsijdqwhlbn", strict=True)),
        **dict(zip("αβεηικνορτυχωγ", "abenikvoptuxwy", strict=True)),
        **dict(zip("օոսհցզԍյ", "onuhgqgj", strict=True)),
        **dict(zip("ıɩȷɡɑʏƅƽɪ", "iijgaybsi", strict=True)),
        **dict(zip("015@$!|", "olsasll", strict=True)),
        "ł": "l",
        "ø": "o",
        "đ": "d",
        "ð": "d",
        "ß": "b",
        "æ": "ae",
        "œ": "oe",
    }
)
#: Letters that together look like one; what is left of "l" and "i" afterwards is the same.
_TOGETHER = (("rn", "m"), ("vv", "w"), ("cl", "d"), ("nn", "m"), ("i", "l"))


def display_name(value: str) -> str:
    """What a From field shows as its author's name, decoded, or as a comment; "" where it shows an address only."""
    value = value[:_MOST]
    before, mark, _ = value.rpartition("<")
    if not mark:
        comment = _COMMENT.search(value)
        before = comment[1] if comment else ""
    name = visible(decode_words(before.replace("\\", "").strip().strip('"').strip()))
    return " ".join(name.replace('"', " ").split())


def domains_in(name: str) -> list[str]:
    """The domains of the addresses that stand in a name, in lower case."""
    return [match[1].lower() for match in _ADDRESS.finditer(name)]


def addresses_shown(name: str) -> list[str]:
    """The addresses that stand in a name, without the quotes around them."""
    return [match[0].lstrip("'`*").lower() for match in _ADDRESS.finditer(name)]


def plain_name(name: str) -> str:
    """A name as people compare names: without case, accents, marks, and with look-alike letters as one. The order of
    the words does not matter."""
    words = _SPACES.split(skeleton(name))
    return " ".join(sorted(word for word in words if word))


def skeleton(text: str) -> str:
    """What a text looks like: texts that may be taken for one another have the same (compare UTS 39 section 4)."""
    text = "".join(one for one in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(one))
    text = text.translate(_ALIKE)
    for two, one in _TOGETHER:
        text = text.replace(two, one)
    return text


def has_mixed_scripts(domain: str) -> bool:
    """Whether a label of the domain mixes letters of scripts that no language mixes: Latin with Cyrillic or Greek."""
    for label in _unicode(domain).split("."):
        scripts = {unicodedata.name(one, "").partition(" ")[0] for one in label if one.isalpha()}
        if len(scripts & {"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE"}) > 1:
            return True
    return False


class LookAlikes:
    """Domains of ours, and what may be taken for them."""

    def __init__(self, ours: Iterable[str], others: Iterable[str]) -> None:
        """`others` are domains that look like ours and are somebody's in good faith."""
        self._ours = [(one.lower(), _label(one)) for one in ours]
        self._skeletons = [(name, label, skeleton(label)) for name, label in self._ours]
        self._others = frozenset(one.lower() for one in others)

    def find(self, domain: str) -> tuple[str, str]:
        """The domain of ours that this one looks like, and how: "letters" (they look the same), "spelling" (one letter
        more, less, another, or two exchanged), "suffix" (the same name below another suffix); ("", "") for none."""
        domain = domain.lower()
        registered = public_suffixes().privatesuffix(domain) or domain
        if registered in self._others or domain in self._others:
            return "", ""
        if any(registered == name or domain.endswith(f".{name}") or domain == name for name, _ in self._ours):
            return "", ""
        label = _unicode(_label(registered))[:_LONGEST_LABEL]
        shape = skeleton(label)
        for name, ours, looks in self._skeletons:
            if label == ours:
                return name, "suffix"
            if shape == looks:
                return name, "letters"
            if min(len(ours), len(label)) >= _SHORTEST and _is_near(label, ours):
                return name, "spelling"
        return "", ""


def _label(domain: str) -> str:
    """The label that was registered."""
    registered = public_suffixes().privatesuffix(domain.lower()) or domain.lower()
    return registered.partition(".")[0]


def _unicode(domain: str) -> str:
    try:
        return idna.decode(domain) if "xn--" in domain else domain
    except (idna.IDNAError, UnicodeError):
        return domain


def _is_near(one: str, other: str) -> bool:
    """Whether one edit (insert, delete, replace, exchange neighbours) makes one of the other."""
    if abs(len(one) - len(other)) > 1 or one == other:
        return False
    shorter, longer = sorted((one, other), key=len)
    at = next(
        (index for index, pair in enumerate(zip(shorter, longer, strict=False)) if pair[0] != pair[1]), len(shorter)
    )
    if len(shorter) < len(longer):
        return shorter[at:] == longer[at + 1 :]
    exchanged: Sequence[str] = (longer[at + 1 : at + 2] + longer[at : at + 1], longer[at + 2 :])
    return shorter[at + 1 :] == longer[at + 1 :] or shorter[at:] == "".join(exchanged)
