"""Templates of strangers: Jinja2's language without anything that calls, keeps or multiplies.

What is left takes time and room in proportion to the template and its values: names, attributes, comparisons, `if`,
`for` two deep over what was given, and a few filters. Each rendering has a budget of rounds and of characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["MOST_CHARACTERS", "HeavyError", "Rendering", "TemplateFaultError"]

#: Characters that one rendering may come to, and rounds of all its loops together.
MOST_CHARACTERS, _MOST_ROUNDS = 2 * 1024**2, 20_000
_DEEPEST_FILTERS, _DEEPEST_LOOPS, _MOST_NODES = 4, 2, 5000
#: Parts of a template that is no heavy one.
_MOST_NODES_AT_ONCE = 500
#: A template may put together all values as often as it has names and filters: so many characters at one time, and in
#: all its rounds.
_MOST_TOGETHER, _MOST_IN_ROUNDS = 16 * 1024**2, 1024**3
_NODES: tuple[type[nodes.Node], ...] = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Const),
    *(nodes.If, nodes.CondExpr, nodes.For, nodes.Filter, nodes.Test, nodes.Compare, nodes.Operand),
    *(nodes.And, nodes.Or, nodes.Not, nodes.Concat, nodes.Add, nodes.Sub, nodes.Neg, nodes.Tuple, nodes.List),
)
_FILTERS = (
    *("capitalize", "default", "d", "e", "escape", "first", "float", "int", "last", "length", "lower"),
    *("round", "title", "trim", "upper"),
)
_TESTS = ("defined", "undefined", "none", "string", "number", "sequence", "mapping", "even", "odd", "true", "false")
_OF_LOOPS = ("index", "index0", "revindex", "revindex0", "first", "last", "length")
_MOST_DIGITS = 10
#: No name of a template can have a space.
_BUDGET = "the budget"
_COUNTED = "counted rounds"


class TemplateFaultError(ValueError):
    """A template that cannot be, or cannot be rendered with these values."""


class HeavyError(Exception):
    """A template, or files, that may take long, where that may not be."""


class _Budget:
    def __init__(self, rounds: int) -> None:
        self.rounds = self._left = rounds

    def spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise SecurityError(f"its loops have more than {self.rounds} rounds")


@pass_context
def _counted(context: Context, values: Iterable[object]) -> Iterator[object]:
    budget: _Budget = context.parent[_BUDGET]
    for one in values:
        budget.spend()
        yield one


def _round(value: object, precision: int = 0) -> float:
    if not isinstance(value, int | float) or not isinstance(precision, int) or not 0 <= precision <= _MOST_DIGITS:
        raise SecurityError(f"round is for a number, to at most {_MOST_DIGITS} digits")
    return round(float(value), precision)


class _Environment(ImmutableSandboxedEnvironment):
    def __init__(self, *, autoescape: bool, most_weight: int | None) -> None:
        super().__init__(autoescape=autoescape, undefined=StrictUndefined, keep_trailing_newline=True, cache_size=0)
        self.filters = {name: self.filters[name] for name in _FILTERS} | {"round": _round, _COUNTED: _counted}
        self.tests = {name: self.tests[name] for name in _TESTS}
        self.globals.clear()
        self._most_weight = most_weight
        self.weight = self.weight_of_loops = 0  # names and filters, of the template and of what is repeated

    def getattr(self, obj: object, attribute: str) -> object:
        """What an object of JSON has under this name, or a loop tells of itself; nothing of Python's."""
        if isinstance(obj, LoopContext):
            return getattr(obj, attribute) if attribute in _OF_LOOPS else self.undefined(obj=obj, name=attribute)
        return self.getitem(obj, attribute)

    def getitem(self, obj: object, argument: object) -> object:
        """The same of a list or a text by place."""
        found: Any = obj if isinstance(obj, dict | list | str) else {}
        try:
            return found[argument]
        except (LookupError, TypeError):
            return self.undefined(obj=obj, name=str(argument))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        count = _check(tree)
        self.weight = _weight(tree)
        # It is compiled in one step, which takes as long as it has parts.
        if self._most_weight is not None and (self.weight > self._most_weight or count > _MOST_NODES_AT_ONCE):
            raise HeavyError
        self.weight_of_loops = sum(map(_weight, tree.find_all(nodes.For)))
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, _COUNTED, [], [], None, None, lineno=loop.lineno)
            if loop.recursive:
                raise TemplateSyntaxError("no recursive loops", loop.lineno)
        return tree


class Rendering:
    """A template made ready; `is_html` escapes what is put in. TemplateFaultError where it is none; HeavyError where
    it has more names and filters (`weight`) than `most_weight`, each of which may go through all values in one step.
    Several threads may render it at one time."""

    def __init__(self, source: str, *, is_html: bool = False, most_weight: int | None = None) -> None:
        self._plain = source if "{" not in source else None
        self.weight = self._weight_of_loops = 0
        if self._plain is None:
            try:
                environment = _Environment(autoescape=is_html, most_weight=most_weight)
                self._template = environment.from_string(source)
                self.weight, self._weight_of_loops = environment.weight, environment.weight_of_loops
            except (TemplateError, RecursionError, SyntaxError, ValueError, MemoryError) as error:
                raise TemplateFaultError(str(error) or "is no template") from None

    def render(self, values: Mapping[str, object]) -> str:
        """The text with these values. TemplateFaultError where one is missing, or it would be too long."""
        if self._plain is not None:
            return self._plain
        pieces, left = [], MOST_CHARACTERS
        characters = _characters(values)
        if self.weight * characters > _MOST_TOGETHER:
            raise TemplateFaultError("its values are too long for a template with so many names and filters")
        budget = _Budget(min(_MOST_ROUNDS, _MOST_IN_ROUNDS // max(self._weight_of_loops * characters, 1)))
        try:
            for piece in self._template.generate({**values, _BUDGET: budget}):
                left -= len(piece)
                if left < 0:
                    raise SecurityError(f"it comes to more than {MOST_CHARACTERS} characters")
                pieces.append(piece)
        except Exception as error:  # whatever values make of it: they are the client's
            raise TemplateFaultError(str(error)[:300] or type(error).__name__) from None
        return "".join(pieces)


def _weight(tree: nodes.Node) -> int:
    return sum(1 for _ in tree.find_all((nodes.Name, nodes.Filter)))


def _characters(values: Mapping[str, object]) -> int:
    count = 0
    waiting: list[object] = [values]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            count += len(one)
        elif isinstance(one, int):
            count += one.bit_length() // 3  # about its digits
        elif isinstance(one, Mapping):
            waiting += [*one, *one.values()]
        elif isinstance(one, list):
            waiting += one
    return count


def _check(tree: nodes.Template) -> int:
    """How many parts it has. TemplateSyntaxError."""
    waiting: list[tuple[Any, int, int]] = [(tree, 0, 0)]
    count = 0
    while waiting:
        node, filters, loops = waiting.pop()
        count += 1
        filters = filters + 1 if isinstance(node, nodes.Filter) else filters
        loops = loops + 1 if isinstance(node, nodes.For) else loops
        line = getattr(node, "lineno", 1)
        if not isinstance(node, _NODES):
            raise TemplateSyntaxError(f"{type(node).__name__} is nothing that templates may have here", line)
        if isinstance(node, nodes.Filter) and (node.name not in _FILTERS or node.node is None):
            raise TemplateSyntaxError(f"there is no filter {node.name}", line)
        if isinstance(node, nodes.Test) and node.name not in _TESTS:
            raise TemplateSyntaxError(f"there is no test {node.name}", line)
        if filters > _DEEPEST_FILTERS or loops > _DEEPEST_LOOPS:
            raise TemplateSyntaxError(f"at most {_DEEPEST_FILTERS} filters and {_DEEPEST_LOOPS} loops deep", line)
        if count > _MOST_NODES:
            raise TemplateSyntaxError(f"has more than {_MOST_NODES} parts", line)
        waiting += [(child, filters, loops) for child in node.iter_child_nodes()]
    return count
