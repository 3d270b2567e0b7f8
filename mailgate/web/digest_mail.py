"""The mail that tells a recipient what is kept back: text and HTML from templates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from email.headerregistry import Address as NamedAddress
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime

from mailgate.address import Address
from mailgate.config.digest import DigestSection
from mailgate.quarantine.digest import Listed
from mailgate.web.links import Links, Meant
from mailgate.web.rendering import Templates, moment, visible

__all__ = ["DigestMail"]


class DigestMail:
    """Makes the mails. `url` is the beginning of the links, `hostname` our name in ids."""

    def __init__(self, section: DigestSection, links: Links, templates: Templates, *, url: str, hostname: str) -> None:
        """`section` has a sender."""
        self._section = section
        self._sender = Address.parse(section.sender or "")
        self._links = links
        self._url = url
        self._hostname = hostname
        self._templates = templates

    def compose(self, to: Address, entries: Sequence[Listed], more: int, mark: str, now: float) -> bytes:
        """One mail with CRLF line ends. `more` entries are not listed; `mark` tells this mail from every other, and is
        the same where the same mail is made again."""
        count = len(entries) + more
        values = {
            "title": "Mail that is kept back",
            "count": count,
            "more": more,
            "recipient": visible(str(to)),
            "organization": self._section.name,
            "contact": self._section.contact,
            "entries": [self._shown(one) for one in entries],
        }
        message = EmailMessage(policy=SMTP if to.is_ascii else SMTPUTF8)
        message["From"] = NamedAddress(self._section.name, self._sender.local_part, self._sender.domain)
        message["To"] = NamedAddress("", to.local_part, to.domain)
        message["Subject"] = visible(self._templates.render("digest-subject.txt", values))
        message["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
        message["Message-ID"] = f"<{mark}@{self._hostname}>"
        message["Auto-Submitted"] = "auto-generated"
        message["List-Id"] = f"<quarantine-digest.{self._hostname}>"
        message["X-Auto-Response-Suppress"] = "All"
        message.set_content(self._templates.render("digest.txt", values), cte="quoted-printable")
        html = self._templates.render("digest.html", values)
        message.add_alternative(html, subtype="html", cte="quoted-printable")
        message.set_boundary(f"=_{mark}")
        return message.as_bytes()

    def _shown(self, one: Listed) -> dict[str, str]:
        token = self._links.sign(Meant(one.queue_id, one.number, one.recipient, int(one.expires)))
        return {
            "from_": visible(one.from_ or one.sender),
            "subject": visible(one.subject),
            "reason": visible(one.reason),
            "received": moment(one.received),
            "expires": moment(one.expires),
            "link": f"{self._url}/release/{token}",
        }
