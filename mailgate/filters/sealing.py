"""An ARC seal on a message that we have changed ourselves (RFC 8617 section 5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator

from mailgate.config.schema import Section
from mailgate.config.units import ConfigPath, Form
from mailgate.config.values import Hostname
from mailgate.envelope import Session, Transaction
from mailgate.filters.authentication_results import results_of
from mailgate.filters.signing import added
from mailgate.interfaces import FilterServices
from mailgate.mailauth import AuthenticationResults, SigningKey
from mailgate.mailauth.arc.seal import seal_header
from mailgate.mailauth.dkim.canonical import Bodies, BodyHasher, split_header
from mailgate.mailauth.dkim.signature import HeaderFields
from mailgate.mailauth.results import ArcResult, DkimResult
from mailgate.message import Content, Edit, apply_edits, edited_body

__all__ = ["SealOptions", "Sealer", "Selector", "parse_selector"]


#: Of the name that publishes a key, of at most 253 octets, others are the domain's.
_LONGEST_SELECTOR = 120
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")


def parse_selector(text: str) -> str:
    """A selector, in lower case; ValueError where the text is none (RFC 6376 section 3.1), or too long for DNS."""
    selector = text.lower() if text.isascii() else ""
    if len(selector) > _LONGEST_SELECTOR or not all(map(_LABEL.fullmatch, selector.split("."))):
        raise ValueError(f"{text!r} is no selector")
    return selector


Selector = Annotated[str, AfterValidator(parse_selector), Form("selector")]


class SealOptions(Section):
    """`seal`: in whose name changed messages are sealed; the key is published as one of DKIM is."""

    domain: Hostname
    """the domain that seals"""
    selector: Selector
    """where its key is published: SELECTOR._domainkey.DOMAIN"""
    key: ConfigPath
    """the private key, RSA or Ed25519: PEM, or the seed of an Ed25519 key in base64"""
    authserv_id: Hostname | None = None
    """the name in which results are told; the gateway's hostname, if not given"""


class Sealer:
    """Seals what an honest host has signed, and says what was found before the change."""

    def __init__(self, options: SealOptions, services: FilterServices) -> None:
        """ValueError: the key cannot be read."""
        try:
            self._key = SigningKey.load(options.key.read_bytes())
        except (OSError, ValueError) as error:
            raise ValueError(f"seal.key: {error}") from None
        self._domain = options.domain
        self._selector = options.selector
        self._authserv_id = options.authserv_id or services.hostname.lower().removesuffix(".")
        self._clock = services.clock

    def fields(self, session: Session, transaction: Transaction, content: Content, edits: Sequence[Edit]) -> list[Edit]:
        """The three fields for the message as these edits make it.

        None where neither a signature nor a chain has passed, or the chain cannot be gone on with: a chain that has
        failed for good, or that nobody has looked at. Reads the whole body.
        """
        chain = transaction.evidence.get(ArcResult)
        has_passed = any(one.result == "pass" for one in transaction.evidence.all(DkimResult))
        if not has_passed and (chain is None or chain.result != "pass"):
            return []
        return self.whatever_passed(session, transaction, content, edits)

    def whatever_passed(
        self, session: Session, transaction: Transaction, content: Content, edits: Sequence[Edit]
    ) -> list[Edit]:
        """As `fields`, where what was found is told whatever it is."""
        chain = transaction.evidence.get(ArcResult)
        if chain is None:
            if b"arc-" in content.header.lower():
                return []
            chain = ArcResult("none")
        header = HeaderFields(split_header(apply_edits(content.header, edits)))
        hasher = BodyHasher([("relaxed", None)])
        for chunk in edited_body(content, edits):
            hasher.feed(chunk)
        told = AuthenticationResults(self._authserv_id, results_of(session, transaction)).text()
        try:
            fields = seal_header(
                header,
                Bodies.found(hasher).digest("relaxed"),
                self._key,
                domain=self._domain,
                selector=self._selector,
                authserv_id=self._authserv_id,
                authentication_results=told,
                chain=chain,
                now=self._clock.seconds(),
            )
        except ValueError:  # a chain that is over, or that a filter before has taken apart
            return []
        return [added(raw) for raw in reversed(fields)]
