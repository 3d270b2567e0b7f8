"""Templates of a site in place of ours: what they are called, what they may speak of, and what is wrong with them.

They are Jinja templates by the site's own hand, as trusted as its configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from jinja2 import Environment, TemplateSyntaxError, meta, nodes
from pydantic import AfterValidator

from mailgate.config.units import ConfigPath, Form

__all__ = ["DIGEST_TEMPLATES", "TemplateFolder"]

_ALL = frozenset({"organization", "contact"})
_MAIL = _ALL | {"count", "more", "recipient", "entries", "title"}
_PAGE = _ALL | {"title", "style"}

#: The templates of the digest and its pages, each with the variables that it is given.
DIGEST_TEMPLATES = {
    "digest-subject.txt": _MAIL,
    "digest.txt": _MAIL,
    "digest.html": _MAIL | {"style"},
    "ask.html": _PAGE | {"recipient", "entry", "received", "expires"},
    "said.html": _PAGE | {"what", "text"},
    "layout.html": _PAGE,
}
#: Octets of one template.
_LONGEST = 256 * 1024


def _checked(folder: Path) -> Path:
    environment = Environment(autoescape=True)
    try:
        found = sorted(one for one in folder.iterdir() if one.suffix in (".txt", ".html"))
    except OSError as error:
        raise ValueError(f"the folder cannot be read: {error.strerror}") from None
    for path in found:
        known = DIGEST_TEMPLATES.get(path.name)
        if known is None:
            raise ValueError(f"{path.name} is none of {', '.join(DIGEST_TEMPLATES)}")
        try:
            source = path.read_bytes()
            if len(source) > _LONGEST:
                raise ValueError(f"{path.name} is longer than {_LONGEST // 1024} KiB")
            tree = environment.parse(source.decode())
        except OSError as error:
            raise ValueError(f"{path.name} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path.name} is not in UTF-8") from None
        except TemplateSyntaxError as error:
            raise ValueError(f"{path.name}, line {error.lineno}: {error.message}") from None
        # What is set at the top is there in blocks, too.
        own = {name.name for one in tree.find_all(nodes.Assign) for name in one.find_all(nodes.Name)}
        unknown = meta.find_undeclared_variables(tree) - known - own - environment.globals.keys()
        if unknown:
            raise ValueError(f"{path.name}: {min(unknown)} is none of {', '.join(sorted(known))}")
    return folder


TemplateFolder = Annotated[ConfigPath, AfterValidator(_checked), Form("path")]
"""A folder with templates; what cannot be one of them is an error."""
