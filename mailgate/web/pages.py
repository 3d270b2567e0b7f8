"""The pages behind the links in digests. GET only shows, however often: programs that look at links release nothing.

There are no sessions and no cookies: what may be done is in the signed link, and in nothing that a browser adds.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qs

from twisted.logger import Logger

from mailgate.interfaces import SpoolError
from mailgate.web.answering import Reply, problem
from mailgate.web.links import Links
from mailgate.web.quarantine_models import KeptEntry
from mailgate.web.recipients import ForRecipients, NotTheirsError, UntoldError
from mailgate.web.rendering import Templates, moment, visible

__all__ = ["ReleasePages"]

_log = Logger()

#: Octets and fields of a form that are looked at: ours has one field.
_MOST_FORM, _MOST_FIELDS = 1024, 10


class _Said(NamedTuple):
    """A page with a text; `what` says which, for templates of a site."""

    what: str
    status: HTTPStatus
    title: str
    text: str


class _InsteadError(Exception):
    """This page is shown in place of what was asked for."""

    def __init__(self, page: _Said) -> None:
        super().__init__(page.title)
        self.page = page


_WRONG = _Said(
    "wrong-link",
    HTTPStatus.NOT_FOUND,
    "This link does not work",
    "It is not whole. Copy all of it from the mail, to its last sign.",
)
_EXPIRED = _Said(
    "expired", HTTPStatus.GONE, "This link has expired", "The mail was kept for some time, and has been deleted since."
)
_GONE = _Said(
    "gone",
    HTTPStatus.GONE,
    "This mail is not kept back any more",
    "It has been sent to you already, or it has been deleted.",
)
_NOT_YOURS = _Said(
    "not-yours",
    HTTPStatus.FORBIDDEN,
    "This mail cannot be released here",
    "Only an administrator can have it sent to you.",
)
_LATER = _Said("later", HTTPStatus.SERVICE_UNAVAILABLE, "Not at this moment", "Please try again in some minutes.")
_NO_FORM = _Said(
    "no-form", HTTPStatus.BAD_REQUEST, "Nothing was released", "Open the link from the mail, and press its button."
)


class ReleasePages:
    """Answers what is below /release. `organization` and `contact` are shown on each page."""

    def __init__(
        self,
        links: Links,
        quarantine: ForRecipients,
        now: Callable[[], float],
        templates: Templates,
        *,
        organization: str,
        contact: str,
    ) -> None:
        self._links = links
        self._quarantine = quarantine
        self._now = now
        self._organization = organization
        self._contact = contact
        self._templates = templates

    async def answer(self, method: bytes, token: str, content: bytes) -> Reply:
        """The page for a token; `content` is what a form has sent."""
        if method not in (b"GET", b"HEAD", b"POST"):
            return problem(HTTPStatus.METHOD_NOT_ALLOWED, "use GET or POST", allow="GET, HEAD, POST")
        try:
            entry = await self._find(token)
            if method == b"POST":
                return await self._release(entry, content)
            return self._ask(entry)
        except _InsteadError as instead:
            return self._page(instead.page)
        except SpoolError as error:
            _log.warn("a release page cannot be shown: {error}", error=error)
            return self._page(_LATER)

    async def _find(self, token: str) -> KeptEntry:
        meant = self._links.read(token)
        if meant is None:
            raise _InsteadError(_WRONG)
        if self._now() >= meant.expires:
            raise _InsteadError(_EXPIRED)
        try:
            entry = await self._quarantine.find(meant.queue_id, meant.number, meant.recipient)
        except NotTheirsError:
            raise _InsteadError(_NOT_YOURS) from None
        if entry is None:
            raise _InsteadError(_GONE)
        return entry

    async def _release(self, entry: KeptEntry, content: bytes) -> Reply:
        if not _is_release(content):
            raise _InsteadError(_NO_FORM)
        try:
            was_there = await self._quarantine.release(entry)
        except NotTheirsError:
            raise _InsteadError(_NOT_YOURS) from None
        except UntoldError:
            raise _InsteadError(_LATER) from None
        if not was_there:
            raise _InsteadError(_GONE)
        return self._page(
            _Said("released", HTTPStatus.OK, "It is on its way", f"The mail is being sent to {entry.recipient}.")
        )

    def _ask(self, entry: KeptEntry) -> Reply:
        shown = {name: visible(getattr(entry, name)) for name in ("from_", "sender", "subject", "reason")}
        return self._rendered(
            HTTPStatus.OK,
            "ask.html",
            title="Mail that is kept back from you",
            recipient=visible(entry.recipient),
            entry=shown,
            received=moment(entry.received),
            expires=moment(entry.expires),
        )

    def _page(self, said: _Said) -> Reply:
        return self._rendered(said.status, "said.html", what=said.what, title=said.title, text=visible(said.text))

    def _rendered(self, status: HTTPStatus, template: str, **values: object) -> Reply:
        about = {"organization": self._organization, "contact": self._contact}
        text = self._templates.render(template, about | values)
        return Reply(status, "text/html; charset=utf-8", text.encode(), self._templates.page_fields)


def _is_release(content: bytes) -> bool:
    """Whether a form is that of our page."""
    try:
        form = parse_qs(content[:_MOST_FORM].decode("ascii", "replace"), max_num_fields=_MOST_FIELDS)
    except ValueError:
        return False  # too many fields
    return form.get("release") == ["yes"]
