"""Templates of strangers: what they can do, and what they cannot make us do."""

from __future__ import annotations

from typing import Any

import pytest

from mailgate.web.injection.templating import MOST_CHARACTERS, Rendering, TemplateFaultError


@pytest.mark.parametrize(
    ("source", "values", "text"),
    [
        ("plain", {}, "plain"),
        ("{{ name }}", {"name": "Ann <x>"}, "Ann <x>"),
        ("{{ a.b.c }} {{ a['b']['c'] }} {{ l[1] }}", {"a": {"b": {"c": 1}}, "l": [1, 2]}, "1 1 2"),
        ("{% for i in l %}{{ loop.index }}{{ i }}{% if not loop.last %},{% endif %}{% endfor %}", {"l": "ab"}, "1a,2b"),
        ("{% for k in d %}{{ k }}={{ d[k] }};{% endfor %}", {"d": {"x": 1, "y": 2}}, "x=1;y=2;"),
        ("{% if a > 3 and b is defined %}y{% else %}n{% endif %}", {"a": 4}, "n"),
        ("{{ b|default('none')|upper }} {{ 'x' ~ 1 }}", {}, "NONE x1"),
        ("{{ price|round(2) }} {{ l|length }}", {"price": 2.345, "l": [1, 2, 3]}, "2.35 3"),
        ("{{ a.items }}", {"a": {"items": "own"}}, "own"),
    ],
)
def test_what_they_say(source: str, values: dict[str, Any], text: str) -> None:
    assert Rendering(source).render(values) == text.replace("2.35", str(round(2.345, 2)))


def test_html_escapes_what_is_put_in_and_nothing_else() -> None:
    assert Rendering("<b>{{ a }}</b>", is_html=True).render({"a": "<i>&'\""}) == "<b>&lt;i&gt;&amp;&#39;&#34;</b>"
    assert Rendering("<b>", is_html=True).render({}) == "<b>"


@pytest.mark.parametrize(
    "source",
    [
        "{{ range(10**9) }}",
        "{{ 'a' * 1000000000 }}",
        "{{ 10 ** 10 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ name.upper() }}",
        "{{ cycler }}{{ name() }}",
        "{% set a = 'x' %}",
        "{% macro m() %}{% endmacro %}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% extends 'x' %}",
        "{% block b %}{% endblock %}",
        "{% for a in l recursive %}{% endfor %}",
        "{% for a in l %}{% for b in l %}{% for c in l %}{% endfor %}{% endfor %}{% endfor %}",
        "{{ l|join(x) }}",
        "{{ l|map('upper') }}",
        "{{ x|replace('a', 'aa') }}",
        "{{ x|attr('__class__') }}",
        "{{ x|e|upper|lower|trim|title }}",
        "{% filter upper %}x{% endfilter %}",
        "{% with a = 1 %}{% endwith %}",
        "{{ x[0:100] }}",
        "{{ x is filter }}",
        "{{ unclosed",
        "{% if x %}" * 200 + "{% endif %}" * 200,
        "{{ x }}" * 6000,
        "{{ " + "(" * 5000 + "x" + ")" * 5000 + " }}",
        "{{ " + "not " * 3000 + "x }}",
    ],
)
def test_what_cannot_be(source: str) -> None:
    with pytest.raises(TemplateFaultError):
        Rendering(source)


@pytest.mark.parametrize(
    ("source", "values"),
    [
        ("{{ missing }}", {}),
        ("{{ a.missing }}", {"a": {}}),
        ("{{ a.__class__ }}", {"a": "x"}),
        ("{{ a.format }}", {"a": "x"}),
        ("{{ a['__class__'] }}", {"a": "x"}),
        ("{{ a.keys }}", {"a": {}}),
        ("{% for i in l %}{{ loop._iterable }}{% endfor %}", {"l": "ab"}),
        ("{{ a|round(1000000000) }}", {"a": 1.5}),
        ("{{ a|round(2, 'ceil') }}", {"a": 1.5}),
        ("{{ a + 1 }}", {"a": "x"}),
        ("{% for i in a %}{% endfor %}", {"a": 5}),
        ("{% for i in l %}{% for j in l %}{% endfor %}{% endfor %}", {"l": list(range(1000))}),
        ("{% for i in l %}{{ t }}{% endfor %}", {"l": list(range(1000)), "t": "x" * (MOST_CHARACTERS // 100)}),
        ("{{ a }}", {"a": 10**5000}),
        ("{{ " + "~".join(["a"] * 1000) + " }}", {"a": "x" * 100_000}),
        ("{{ [" + ",".join(["a|upper"] * 1000) + "]|length }}", {"a": "x" * 100_000}),
        ("{{ [" + ",".join(["a.b"] * 1000) + "]|length }}", {"a": {"x" * 100_000: 1, "b": 2}}),
        ("{% for i in l %}{% if a|upper == 'x' %}{% endif %}{% endfor %}", {"l": [1] * 2000, "a": "x" * 500_000}),
    ],
)
def test_what_values_cannot_make_of_it(source: str, values: dict[str, Any]) -> None:
    with pytest.raises(TemplateFaultError):
        Rendering(source).render(values)


def test_a_long_template_has_room_for_what_letters_need() -> None:
    row = "{% for one in rows %}{{ one.name }}: {{ one.price|round(2) }} {{ one.text|upper }}, {% endfor %}"
    rows = [{"name": f"n{number}", "price": 1.5, "text": "t" * 50} for number in range(500)]
    text = Rendering(row + "{{ footer }}" * 100).render({"rows": rows, "footer": "f" * 5000})
    assert text.count("TTT, ") == 500
    assert text.endswith("f" * 500_000)


def test_each_rendering_has_a_budget_of_its_own() -> None:
    rendering = Rendering("{% for i in l %}{{ i }}{% endfor %}")
    for _ in range(5):
        assert rendering.render({"l": ["x"] * 15_000}) == "x" * 15_000
