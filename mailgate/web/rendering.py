"""Pages and mails from templates. What comes from outside is escaped, and shown without signs that are not seen."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from unicodedata import category

from jinja2 import (
    BaseLoader,
    ChoiceLoader,
    Environment,
    FileSystemLoader,
    PackageLoader,
    StrictUndefined,
    Template,
    select_autoescape,
)
from markupsafe import Markup
from twisted.logger import Logger

from mailgate.config.site_templates import DIGEST_TEMPLATES

__all__ = ["Templates", "moment", "visible"]

_log = Logger()

#: Characters of a text from outside that are shown.
_LONGEST = 300


class Templates:
    """Our templates, and before them those of a site in `folder`: each escapes for HTML, but for those that end in
    .txt. Reads files, all of them now."""

    def __init__(self, folder: Path | None = None) -> None:
        style = files("mailgate.web").joinpath("templates/page.css").read_text("utf-8")
        ours = PackageLoader("mailgate.web", "templates")
        self._ours = _environment(ours, style)
        self._site = None if folder is None else _environment(ChoiceLoader([FileSystemLoader(folder), ours]), style)
        for name in () if self._site is None else DIGEST_TEMPLATES:
            self._load(name)
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
        """A page or a text. Where a template of the site fails, ours stands in, and the log says so."""
        template = self._load(name)
        if template is not None:
            try:
                return template.render(values)
            except Exception as error:  # whatever a template of a site may do
                self._warn(name, error)
        return self._ours.get_template(name).render(values)

    def _load(self, name: str) -> Template | None:
        if self._site is None:
            return None
        try:
            return self._site.get_template(name)
        except Exception as error:  # it was in order when the configuration was read
            self._warn(name, error)
            return None

    def _warn(self, name: str, error: Exception) -> None:
        _log.warn(
            "the template {name} of the site fails, and ours stands in: {kind}: {error}",
            name=name,
            kind=type(error).__name__,
            error=error,
        )


def _environment(loader: BaseLoader, style: str) -> Environment:
    made = Environment(
        loader=loader,
        autoescape=select_autoescape(enabled_extensions=("html",), disabled_extensions=("txt",), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
    made.globals["style"] = Markup(style)  # noqa: S704  a file of ours
    return made


def visible(text: str) -> str:
    """A text from outside in one line: without control characters, and without those that turn or hide others."""
    shown = "".join(" " if category(one)[0] in "CZ" else one for one in text[: 4 * _LONGEST])
    shown = " ".join(shown.split())
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def moment(at: float) -> str:
    """A time (seconds since the epoch) in the machine's time zone."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M %Z")
