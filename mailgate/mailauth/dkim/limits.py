"""What a signature, a key and a header section may ask for; what goes beyond is not worked on."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "MAX_FIELDS",
    "MAX_FIELD_OCTETS",
    "MAX_KEY_BITS",
    "MAX_NAMES",
    "MAX_RECORD_OCTETS",
    "MAX_TAGS",
    "MIN_KEY_BITS",
    "VerifyLimits",
]

#: Header fields of a message that has more are not looked at.
MAX_FIELDS = 1000
#: Octets of one signature's field.
MAX_FIELD_OCTETS = 16 * 1024
#: Tags of one list, and names in one h=.
MAX_TAGS = 64
MAX_NAMES = 500
#: Octets of a key's TXT record: an RSA key of 4096 bits takes 800.
MAX_RECORD_OCTETS = 4096
#: Bits of an RSA key: less is no proof (RFC 8301 section 3.2), more only costs.
MIN_KEY_BITS = 1024
MAX_KEY_BITS = 4096


@dataclass(frozen=True, slots=True)
class VerifyLimits:
    """What a verifier is ready to do and to believe.

    `signatures` are looked at, from the top; `key_bits` is the least that an RSA key must have. A signature may have
    been over for `late` seconds, as clocks differ, and been made `early` seconds in the future: whole hours, as
    hosts mistake their time zone. Without `allow_uncovered` a signature whose l= leaves octets of the body without
    cover comes to "policy", and without `allow_added` one that covers not each of several Subject, Date, To, Cc,
    Reply-To or Sender.
    """

    signatures: int = 8
    key_bits: int = MIN_KEY_BITS
    late: float = 300.0
    early: float = 12 * 3600.0
    allow_uncovered: bool = True
    allow_added: bool = True

    def time_problem(self, made: int | None, expires: int | None, now: float) -> str:
        """Why a signature of these times (t=, x=) does not count now, "" where it does."""
        if expires is not None and expires + self.late < now:
            return "it has expired"
        if made is not None and made - self.early > now:
            return "it was made in the future"
        return ""
