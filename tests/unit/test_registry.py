"""Filters are found by name, strictly: missing, broken or ambiguous is an error that says why."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

import mailgate.plugins
from mailgate.config.schema import Section
from mailgate.interfaces import IFilterFactory
from mailgate.pipeline.registry import FilterBrokenError, FilterMaker, FilterNotFoundError, Registry
from mailgate.plugins import builtin
from mailgate.testing import services

GREETING = """
    from zope.interface import implementer
    from mailgate.config.schema import Section
    from mailgate.interfaces import IFilterFactory

    class Options(Section):
        pass

    @implementer(IFilterFactory)
    class Factory:
        name = "greeting"
        summary = "greets"
        options = Options
        def build(self, options, services):
            return ("built", options, services)

    greeting = Factory()
"""

Write = Callable[[str, str], Path]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module into a folder that is part of mailgate.plugins for the test."""
    folder = tmp_path / "mailgate" / "plugins"
    folder.mkdir(parents=True)
    monkeypatch.setattr(mailgate.plugins, "__path__", [*mailgate.plugins.__path__, str(folder)])
    before = set(sys.modules)

    def write(name: str, source: str) -> Path:
        path = folder / f"{name}.py"
        path.write_text(dedent(source))
        return path

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("mailgate.plugins."):
            del sys.modules[name]
            vars(mailgate.plugins).pop(name.rpartition(".")[2], None)


def names(registry: Registry) -> list[str]:
    return [one.name for one in registry.all()]


def test_the_built_in_filters_are_there_in_order_and_are_not_imported() -> None:
    kept = {name: module for name, module in sys.modules.items() if name.startswith("mailgate.filters.")}
    for name in kept:
        del sys.modules[name]
    try:
        registry = Registry()
        assert names(registry)[:4] == ["access", "arc", "arc-seal", "attachments"]
        assert names(registry) == sorted(names(registry))
        assert all(one.summary for one in registry.all())
        assert not [name for name in sys.modules if name.startswith("mailgate.filters.")]
    finally:
        sys.modules.update(kept)


def test_every_built_in_filter_can_be_used() -> None:
    registry = Registry()
    for name in builtin.__all__:
        factory = registry.find(getattr(builtin, name).name)
        assert factory is getattr(builtin, name)
        assert issubclass(factory.options, Section)


def test_a_filter_of_a_third_party_is_found(plugin: Write) -> None:
    plugin("theirs", GREETING)
    factory = Registry().find("greeting")
    options = factory.options()
    given = services()
    assert factory.build(options, given) == ("built", options, given)


def test_the_scan_is_kept_and_a_new_registry_scans_anew(plugin: Write) -> None:
    registry = Registry()
    before = names(registry)
    plugin("theirs", GREETING)
    assert names(registry) == before
    assert names(Registry()) == sorted([*before, "greeting"])


def test_a_plugin_that_twisteds_cache_hides_is_found(plugin: Write) -> None:
    path = plugin("theirs", "")
    names(Registry())
    cache = path.with_name("dropin.cache")
    assert cache.exists()
    # A roll-back puts an older file in the place of a newer one.
    path.write_text(dedent(GREETING))
    past = time.time() - 86400
    os.utime(path, (past, past))
    sys.modules.pop("mailgate.plugins.theirs")
    for compiled in path.parent.glob("__pycache__/*"):
        compiled.unlink()
    registry = Registry()
    assert "greeting" not in names(registry)
    assert registry.find("greeting").name == "greeting"
    assert "greeting" in names(registry)


def test_a_missing_filter_names_what_is_installed_and_what_cannot_be_imported(plugin: Write) -> None:
    plugin("broken", "import a_module_that_nobody_has")
    plugin("leaves", "raise SystemExit('goodbye')")
    plugin("fine", GREETING)
    registry = Registry()
    with pytest.raises(FilterNotFoundError) as caught:
        registry.find("dnbsl")
    text = str(caught.value)
    assert text.startswith("no filter is called dnbsl, did you mean dnsbl? (installed are: access, arc, arc-seal, ")
    assert "greeting, greylist" in text
    assert "cannot import mailgate.plugins.broken: ModuleNotFoundError: No module named 'a_module" in text
    assert "cannot import mailgate.plugins.leaves: SystemExit: goodbye" in text
    # A broken neighbour is no reason to refuse the others.
    assert registry.find("greeting").name == "greeting"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("word.upper()", "ImportError: AttributeError: 'NoneType' object has no attribute 'upper'"),
        ("word + 1", "TypeError: unsupported operand type(s) for +: 'NoneType' and 'int'"),
    ],
)
def test_a_module_that_fails_is_told_with_its_line(plugin: Write, line: str, fault: str) -> None:
    plugin(
        "theirs",
        "from mailgate.pipeline.registry import FilterMaker\n"
        "lazy = FilterMaker('lazy', 'mailgate.plugins.lazy', 'imported late')\n",
    )
    plugin("lazy", f"word = None\n{line}\n")
    with pytest.raises(FilterBrokenError) as caught:
        Registry().find("lazy")
    text = re.sub(r"\(/\S*/", "(", str(caught.value))
    assert text == f"the filter lazy (mailgate.plugins.lazy) cannot be used: {fault} (lazy.py:2)"


def test_two_filters_of_one_name_are_refused_with_both_places(plugin: Write) -> None:
    plugin("first", GREETING)
    plugin("second", GREETING)
    with pytest.raises(FilterBrokenError) as caught:
        Registry().find("greeting")
    assert str(caught.value) == (
        "more than one filter is called greeting: mailgate.plugins.first.Factory and mailgate.plugins.second.Factory"
    )


def test_a_built_in_filter_cannot_be_replaced_unnoticed(plugin: Write) -> None:
    plugin("first", GREETING.replace('"greeting"', '"access"'))
    with pytest.raises(FilterBrokenError, match=r"mailgate\.filters\.access and mailgate\.plugins\.first\.Factory"):
        Registry().find("access")


def test_one_object_that_two_modules_show_counts_once(plugin: Write) -> None:
    plugin("a_user", "from mailgate.plugins.theirs import greeting\nfrom mailgate.plugins.builtin import access")
    plugin("theirs", GREETING)
    registry = Registry()
    assert names(registry).count("greeting") == 1
    assert registry.find("greeting").name == "greeting"
    assert registry.find("access").name == "access"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("options = Options", "options = {}"), "its options are no class"),
        (("options = Options", "options = dict"), "its options are no class"),
        (("options = Options", "pass"), "options"),
        (('summary = "greets"', 'summary = ""'), "no summary"),
        (('summary = "greets"', "pass"), "summary"),
        (("def build(self, options, services)", "def make(self, options, services)"), "build"),
        (("def build(self, options, services)", "def build(self)"), "build"),
        (("options = Options", "options = property(lambda self: 1 // 0)"), "ZeroDivisionError"),
    ],
)
def test_a_broken_factory_is_refused_with_its_fault(plugin: Write, change: tuple[str, str], fault: str) -> None:
    plugin("theirs", GREETING.replace(*change))
    with pytest.raises(FilterBrokenError) as caught:
        Registry().find("greeting")
    text = str(caught.value)
    assert text.startswith("the filter greeting (mailgate.plugins.theirs.Factory) cannot be used: ")
    assert fault in text.partition("cannot be used: ")[2]
    assert "\n" not in text


@pytest.mark.parametrize("name", ["pass", "name = 5", "name = ''", "name = property(lambda self: 1 // 0)"])
def test_a_factory_without_a_name_is_pointed_out(plugin: Write, name: str) -> None:
    plugin("theirs", GREETING.replace('name = "greeting"', name))
    registry = Registry()
    assert names(registry) == [one for one in names(registry) if one]
    with pytest.raises(FilterNotFoundError, match=r"without a name: mailgate\.plugins\.theirs\.Factory"):
        registry.find("greeting")


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (None, "ModuleNotFoundError: No module named 'mailgate.plugins.lazy'"),
        ("", "ImportError: mailgate.plugins.lazy has no Options"),
        ("Options = 5", "ImportError: Options in mailgate.plugins.lazy is no class"),
        ("raise SystemExit(3)", "SystemExit: 3 (lazy.py:1)"),
    ],
)
def test_a_maker_whose_module_is_not_right_says_so(plugin: Write, source: str | None, fault: str) -> None:
    plugin(
        "theirs",
        "from mailgate.pipeline.registry import FilterMaker\n"
        "lazy = FilterMaker('lazy', 'mailgate.plugins.lazy', 'imported late')\n",
    )
    if source is not None:
        plugin("lazy", source)
    with pytest.raises(FilterBrokenError) as caught:
        Registry().find("lazy")
    text = re.sub(r"\(/\S*/", "(", str(caught.value))
    assert text == f"the filter lazy (mailgate.plugins.lazy) cannot be used: {fault}"


def test_a_maker_builds_with_its_modules_function(plugin: Write) -> None:
    plugin(
        "lazy",
        "from mailgate.config.schema import Section\nclass Options(Section): pass\n"
        "def build(options, services): return (options, services)\n",
    )
    maker = FilterMaker("lazy", "mailgate.plugins.lazy", "imported late")
    assert IFilterFactory.providedBy(maker)
    assert repr(maker) == "FilterMaker('lazy', 'mailgate.plugins.lazy')"
    options = maker.options()
    given = services()
    assert maker.build(options, given) == (options, given)
