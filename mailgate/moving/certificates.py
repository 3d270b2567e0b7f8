"""Our certificates, where another server has had them: links beside the configuration, so that renewals count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mailgate.moving.draft import Draft
from mailgate.tls.pem import Source, TlsError, read_key_pair

__all__ = ["certificate"]

_ADVICE = "Give tls.certificate: one PEM file with certificate, chain and key, or a folder"


def certificate(draft: Draft, pairs: Sequence[tuple[Path, Path, str]]) -> None:
    """[tls] for pairs of files, each with the setting that names it; those that cannot be used are noted."""
    section = draft.section("tls")
    number = 0
    seen: set[tuple[Path, Path]] = set()
    for chain, key, origin in pairs:
        if (chain, key) in seen:
            continue
        seen.add((chain, key))
        try:
            read_key_pair(Source(chain, key))
        except (TlsError, OSError) as error:
            draft.leave("decide", origin, f"this certificate cannot be used: {error}", _ADVICE)
            continue
        number += 1
        name = "certificate" if number == 1 else f"certificate-{number}"
        draft.link(f"tls/{name}.crt", str(chain.absolute()))
        draft.link(f"tls/{name}.key", str(key.absolute()))
        section.set("certificate", "tls", origin)
        section.comment("Links to the files as they are: mailgate's user must be able to read the keys.")
