"""The filter in README.md is one."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mailgate.config.schema import Section
from mailgate.interfaces import IMailFilter
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import services, session, transaction
from mailgate.verdict import Reject

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> FilterMaker:
    """What the second block makes of the first, which is the module that it names."""
    filter_code, plugin_code = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    plugin: dict[str, FilterMaker] = {}
    exec(plugin_code, plugin)  # noqa: S102  our own page
    module = ModuleType(plugin["noreply"].module)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(filter_code, module.__dict__)  # noqa: S102  our own page
    return plugin["noreply"]


def test_it_refuses_who_takes_no_answers(maker: FilterMaker) -> None:
    options = maker.options
    assert issubclass(options, Section)
    built = maker.build(options.model_validate({"text": "Write from elsewhere"}), services())
    assert IMailFilter.providedBy(built)
    for sender, is_refused in {"NoReply@a.example": True, "ann@a.example": False, "": False}.items():
        verdict = IMailFilter(built).on_mail(session(), transaction(sender))
        assert isinstance(verdict, Reject) is is_refused
        if isinstance(verdict, Reject):
            assert verdict.reply.to_bytes() == b"550 5.7.1 Write from elsewhere\r\n"
