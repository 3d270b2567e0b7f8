"""Pages and mails from templates. What comes from outside is escaped, and shown without signs that are not seen."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import datetime
from importlib.resources import files
from unicodedata import category

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

__all__ = ["Templates", "moment", "visible"]

#: Characters of a text from outside that are shown.
_LONGEST = 300


class Templates:
    """Our templates: each escapes for HTML, but for those that end in .txt. Reads files."""

    def __init__(self) -> None:
        style = files("mailgate.web").joinpath("templates/page.css").read_text("utf-8")
        self._environment = Environment(
            loader=PackageLoader("mailgate.web", "templates"),
            autoescape=select_autoescape(enabled_extensions=("html",), disabled_extensions=("txt",), default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self._environment.globals["style"] = Markup(style)  # noqa: S704  a file of ours
        shown = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        #: What every page says: nothing is loaded from anywhere, it stands in no frame, and nobody learns its address.
        self.page_fields: Mapping[str, str] = {
            "content-security-policy": (
                f"default-src 'none'; style-src 'sha256-{shown}'; form-action 'self'; frame-ancestors 'none'; "
                "base-uri 'none'"
            ),
            "referrer-policy": "no-referrer",
            "x-frame-options": "DENY",
            "x-robots-tag": "noindex, nofollow",
        }

    def render(self, name: str, values: Mapping[str, object]) -> str:
        """A page or a text."""
        return self._environment.get_template(name).render(values)


def visible(text: str) -> str:
    """A text from outside in one line: without control characters, and without those that turn or hide others."""
    shown = "".join(" " if category(one)[0] in "CZ" else one for one in text[: 4 * _LONGEST])
    shown = " ".join(shown.split())
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def moment(at: float) -> str:
    """A time (seconds since the epoch) in the machine's time zone."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M %Z")
