"""Mail that others have collected, much of it malformed: it is looked into whole, within bounds, and never fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailgate.content.examine import Examiner
from mailgate.content.models import Examination, Question, Rule
from mailgate.filters.attachment_rules import EXTENSIONS, Blocked, judge

_CORPUS = Path(os.environ["MAILGATE_SUITES"]) / "corpus"
_FILES = sorted(one for one in _CORPUS.rglob("*") if one.is_file())
_EXAMINER = Examiner()
_RULES = (Rule("a", "foo.*bar"), Rule("b", "x", "header:subject"), Rule("c", "y", "raw"))


def examined(path: Path) -> Examination:
    return _EXAMINER.answer(Question(path=str(path), archives=True, links=True, bare_hosts=True, rules=_RULES))


def test_the_corpus_is_there() -> None:
    assert len(_FILES) > 500


@pytest.mark.parametrize("folder", sorted({one.relative_to(_CORPUS).parts[0] for one in _FILES}))
def test_every_message_is_looked_into(folder: str) -> None:
    for path in (one for one in _FILES if one.relative_to(_CORPUS).parts[0] == folder):
        found = examined(path)
        size = path.stat().st_size
        assert found.failure is None, path
        assert not found.problems, (path, found.problems)
        assert all(one.end <= size for one in found.parts), path


@pytest.mark.parametrize(
    ("name", "kind", "detail"),
    [
        ("exe_attm.eml", "blocked", "exe"),
        ("zip.eml", "blocked", "exe"),
        ("zip-doublebad.eml", "blocked", "exe"),
        ("rar4.eml", "blocked", "exe"),
        ("rar-date-bad-ext.eml", "blocked", "scr"),
        ("pdf_encrypted.eml", "encrypted-document", ""),
        ("pdf_js.eml", "embedded", "script"),
    ],
)
def test_what_is_known_to_be_in_it(name: str, kind: str, detail: str) -> None:
    words = "blocked macro encrypted encrypted-document broken opaque sealed embedded mismatch limits"
    results = judge(
        examined(_CORPUS / "rspamd" / name),
        Blocked(EXTENSIONS, [], []),
        dict.fromkeys(words.split(), "reject"),
        in_archives=True,
        owner=None,
    )
    assert (kind, detail) in {(one.kind, one.detail) for one in results}


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("url_suspect_numeric_ip.eml", "203.0.113.42"),
        ("phishing_query_nested.eml", "www.cnn.com"),
        ("url13.eml", "black.sanchez.com"),
    ],
)
def test_where_its_links_lead(name: str, host: str) -> None:
    assert host in {one.host for one in examined(_CORPUS / "rspamd" / name).links}


def test_files_in_binhex_are_what_they_are() -> None:
    found = examined(_CORPUS / "mail-parser-stalwart/resources/eml/legacy/016.eml")
    files = [(one.names, one.types) for one in found.parts if "binhex" in one.marks]
    assert (("blueball.png",), ("image/png",)) in files
