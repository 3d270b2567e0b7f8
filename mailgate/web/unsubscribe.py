"""The page behind the links of list-unsubscribe (RFC 8058): POST ends the mail, GET only shows a button."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from http import HTTPStatus

from twisted.logger import Logger

from mailgate.events import Unsubscribed
from mailgate.interfaces import IEvents, ISuppressions, Suppression
from mailgate.rewriting.unsubscribe import UnsubscribeError, UnsubscribeTokens, Unsubscription
from mailgate.web.answering import Reply, problem
from mailgate.web.rendering import Templates, visible

__all__ = ["UnsubscribePages"]

_log = Logger()

#: Octets of a form that are looked at.
_MOST_FORM = 4096
_WRONG = "This link does not work", "It is not whole. Copy all of it from the mail, to its last sign."
_MANY = "This link is for many", "It does not say who you are. Please answer the mail, and say that you want no more."
_LATER = "Not at this moment", "Please try again in some minutes."
_NO_FORM = "Nothing was changed", "Open the link from the mail, and press its button."


class UnsubscribePages:
    """Answers what is below /unsubscribe. Whoever has a token may end the mail of the one sender, or of its stream, to
    the one recipient that the token names, and nothing else."""

    def __init__(
        self,
        tokens: UnsubscribeTokens,
        suppressions: ISuppressions,
        events: IEvents,
        now: Callable[[], float],
        templates: Templates,
    ) -> None:
        self._tokens = tokens
        self._suppressions = suppressions
        self._events = events
        self._now = now
        self._templates = templates

    async def answer(self, method: bytes, token: str, content: bytes) -> Reply:
        """The page for a token; `content` is what was sent."""
        if method not in (b"GET", b"HEAD", b"POST"):
            return problem(HTTPStatus.METHOD_NOT_ALLOWED, "use GET or POST", allow="GET, HEAD, POST")
        try:
            about = self._tokens.read(token)
        except UnsubscribeError as error:
            _log.debug("a link to unsubscribe: {error}", error=error)
            return self._said(HTTPStatus.NOT_FOUND, *_WRONG)
        if about.recipient is None:
            return self._said(HTTPStatus.BAD_REQUEST, *_MANY)
        if method != b"POST":
            return self._page(HTTPStatus.OK, "leave.html", title="No more of this mail", **_told(about))
        # A form of either kind (RFC 8058 section 3.2).
        form = content[:_MOST_FORM]
        if b"List-Unsubscribe" not in form or b"One-Click" not in form:
            return self._said(HTTPStatus.BAD_REQUEST, *_NO_FORM)
        return await self._leave(about, str(about.recipient))

    async def _leave(self, about: Unsubscription, recipient: str) -> Reply:
        scope = about.stream or str(about.sender)
        try:
            is_new = await self._suppressions.add(Suppression(recipient, scope, "unsubscribe", "", self._now()))
        except (OSError, sqlite3.Error) as error:
            _log.warn("nobody can unsubscribe: {error}", error=error)
            return self._said(HTTPStatus.SERVICE_UNAVAILABLE, *_LATER)
        if is_new:
            told = Unsubscribed(at=self._now(), recipient=recipient, sender=str(about.sender), stream=about.stream)
            self._events.publish(told)
        return self._said(HTTPStatus.OK, "Done", f"{recipient} gets no more of this mail of {about.sender}.")

    def _said(self, status: HTTPStatus, title: str, text: str) -> Reply:
        return self._page(status, "said.html", title=title, text=visible(text))

    def _page(self, status: HTTPStatus, template: str, **values: object) -> Reply:
        text = self._templates.render(template, {"organization": "", "contact": ""} | values)
        return Reply(status, "text/html; charset=utf-8", text.encode(), self._templates.page_fields)


def _told(about: Unsubscription) -> dict[str, str]:
    return {"recipient": visible(str(about.recipient)), "sender": visible(str(about.sender))}
