"""A TOML document as it stands, sound or not: what there is of the shape that a configuration has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mailgate.config.locate import Path

__all__ = ["Document", "Table"]

Table = Mapping[str, object]


class Document:
    """Looks into a document that may be wrong anywhere; what has not the right shape is passed over."""

    def __init__(self, root: Table) -> None:
        self.root = root

    def names(self, section: str) -> list[str]:
        """The names of the tables `[section.NAME]`, and of what stands in their place."""
        return list(_table(self.root.get(section)))

    def tables(self, section: str) -> dict[str, Table]:
        """The tables `[section.NAME]` by name."""
        entries = _table(self.root.get(section)).items()
        return {name: entry for name, entry in entries if isinstance(entry, dict)}

    def table(self, *path: str) -> Table:
        """The table at `path`; an empty one where there is none."""
        found = self.root
        for key in path:
            found = _table(found.get(key))
        return found

    def listeners(self) -> Iterator[tuple[int, Table]]:
        """The tables of `[[listeners]]` with their positions."""
        listeners = self.root.get("listeners")
        for number, entry in enumerate(listeners if isinstance(listeners, list) else ()):
            if isinstance(entry, dict):
                yield number, entry

    def pipeline_filters(self) -> Iterator[tuple[str, Path]]:
        """Each name of a filter in a pipeline, with its place; the second part of that is the pipeline's name."""
        for pipeline, section in self.tables("pipelines").items():
            for number, entry in enumerate(_list(section.get("filters"))):
                path: Path = ("pipelines", pipeline, "filters", number)
                if isinstance(entry, str):
                    yield entry, path
                for inner, name in enumerate(_list(entry)):
                    if isinstance(name, str):
                        yield name, (*path, inner)

    def kind_of(self, name: str) -> str:
        """Which kind of filter a name in a pipeline stands for."""
        kind = self.table("filters", name).get("kind")
        return kind if isinstance(kind, str) else name


def _table(value: object) -> Table:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
