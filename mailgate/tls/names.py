"""Names that a certificate carries, as text that is fit for logs and header fields."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509 import (
    Certificate,
    DNSName,
    DuplicateExtension,
    ExtensionNotFound,
    InvalidVersion,
    RFC822Name,
    SubjectAlternativeName,
    UnsupportedGeneralNameType,
)

__all__ = ["MALFORMED", "dns_names", "printable", "subject_names"]

#: What is raised about a certificate that OpenSSL may have let pass and that cannot be read all the same.
MALFORMED = (ValueError, InvalidVersion, DuplicateExtension, UnsupportedGeneralNameType, UnsupportedAlgorithm)


def dns_names(certificate: Certificate) -> tuple[str, ...]:
    """The DNS names of the certificate's subjectAltName, lower case; MALFORMED where it is."""
    return _found(certificate, DNSName)


def subject_names(certificate: Certificate) -> tuple[str, ...]:
    """DNS names, then mail addresses of the certificate's subjectAltName, lower case; none where it is malformed."""
    try:
        return _found(certificate, DNSName) + _found(certificate, RFC822Name)
    except MALFORMED:
        return ()


def printable(text: str) -> str:
    """`text` with a question mark for each character that could change the line it is written to."""
    return text if text.isprintable() else "".join(one if one.isprintable() else "?" for one in text)


def _found(certificate: Certificate, kind: type[DNSName] | type[RFC822Name]) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        return ()
    return tuple(name.lower() for name in names.get_values_for_type(kind) if name.isprintable() and " " not in name)
