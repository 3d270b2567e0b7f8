"""ValiMail's suite for ARC, whole, through the public functions and a resolver in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its types are a package of their own

from mailgate.mailauth.arc.seal import CannotSealError, seal_arc
from mailgate.mailauth.arc.verify import verify_arc
from mailgate.mailauth.authentication_results import AuthenticationResults, MethodResult
from mailgate.mailauth.dkim.canonical import canonical_fields
from mailgate.mailauth.dkim.keys import SigningKey, parse_key
from mailgate.mailauth.dkim.signature import read_base64, without_signature
from mailgate.mailauth.dkim.tags import parse_tags, without_space
from mailgate.mailauth.results import ArcResult
from mailgate.testing import MemoryResolver, wait_for

_SUITE = Path(os.environ["MAILGATE_SUITES"]) / "arc" / "tests"
_NAMES = ("ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results")
#: Tags that must come out as the suite has them. The signatures cannot: they depend on the order of the tags, which the
#: RFC leaves open, and so does h= on what is signed by default.
_SEAL_TAGS = (b"a", b"cv", b"d", b"i", b"s", b"t")
_MESSAGE_TAGS = (b"a", b"bh", b"c", b"d", b"h", b"i", b"s", b"t")


def cases(name: str) -> Iterator[Any]:
    with (_SUITE / name).open("rb") as file:
        scenarios = [one for one in yaml.safe_load_all(file) if one and "tests" in one]
    for scenario in scenarios:
        for title, case in scenario["tests"].items():
            yield pytest.param(scenario, case, id=f"{scenario['description']}: {title}")


VALIDATION, SIGNING = list(cases("arc-draft-validation-tests.yml")), list(cases("arc-draft-sign-tests.yml"))


def octets(text: str | None) -> bytes:
    return (text or "").replace("\n", "\r\n").encode()


def zone(scenario: dict[str, Any]) -> dict[str, Any]:
    return {name: {"TXT": [text or ""]} for name, text in (scenario["txt-records"] or {}).items()}


def validated(scenario: dict[str, Any], message: bytes) -> ArcResult:
    return wait_for(verify_arc(MemoryResolver(zone(scenario)), message))


@pytest.mark.parametrize(("scenario", "case"), VALIDATION)
def test_validation(scenario: dict[str, Any], case: dict[str, Any]) -> None:
    result = validated(scenario, octets(case["message"]))
    # Where the suite names no state, a seal says that the chain has failed before.
    assert result.result == (case["cv"] or "fail").lower(), result


@pytest.mark.parametrize(("scenario", "case"), SIGNING)
def test_signing(scenario: dict[str, Any], case: dict[str, Any]) -> None:
    message = octets(case["message"])
    found = own_results(message, case["srv-id"])
    chain = validated(scenario, message)
    arguments: dict[str, Any] = {
        "key": SigningKey.load(scenario["privatekey"]),
        "domain": scenario["domain"],
        "selector": scenario["sel"],
        "authserv_id": case["srv-id"],
        "authentication_results": AuthenticationResults("", found).text(),
        "chain": chain,
        "headers": case["sig-headers"].split(":"),
        "now": case["t"],
    }
    if not case["AS"]:
        with pytest.raises(CannotSealError):
            seal_arc(message, **arguments)
        return
    fields = seal_arc(message, **arguments)
    seal, signature, results = (tags_of(one, name) for one, name in zip(fields, _NAMES, strict=True))
    wanted_seal, wanted_signature = parse_tags(octets(case["AS"]).strip()), parse_tags(octets(case["AMS"]).strip())
    assert _chosen(parse_tags(seal), _SEAL_TAGS) == _chosen(wanted_seal, _SEAL_TAGS)
    assert _chosen(parse_tags(signature), _MESSAGE_TAGS) == _chosen(wanted_signature, _MESSAGE_TAGS)
    assert told(results.decode()) == told(case["AAR"])
    sealed = validated(scenario, b"".join(fields) + message)
    if chain.result == "fail":
        assert sealed.reason.startswith("it had failed at hop")
        assert holds_alone(fields, zone(scenario))
    else:
        assert sealed.result == "pass"


def own_results(message: bytes, authserv_id: str) -> tuple[MethodResult, ...]:
    """What the fields of ours say together: the suite has the sealer gather them."""
    header = message.partition(b"\r\n\r\n")[0].replace(b"\r\n ", b" ").decode()
    values = [line.partition(":")[2] for line in header.split("\r\n") if line.startswith("Authentication-Results:")]
    parsed = [AuthenticationResults.parse(value) for value in values]
    return tuple(one for field in parsed if field.authserv_id == authserv_id for one in field.results)


def tags_of(field: bytes, name: str) -> bytes:
    assert field.startswith(name.encode() + b":")
    return field.partition(b":")[2].removesuffix(b"\r\n")


def _chosen(tags: dict[bytes, bytes], names: tuple[bytes, ...]) -> dict[bytes, bytes]:
    return {name: without_space(tags[name]).lower() if name == b"h" else without_space(tags[name]) for name in names}


def told(value: str) -> tuple[str, AuthenticationResults]:
    """The instance, and the rest without comments."""
    instance, _, rest = value.replace("\n", "\n ").partition(";")
    return instance.strip(), AuthenticationResults.parse(rest.strip().replace("\n ", " "))


def holds_alone(fields: tuple[bytes, bytes, bytes], names: dict[str, Any]) -> bool:
    """Whether the seal of a set covers that set alone (RFC 8617 section 5.1.2)."""
    (record,) = (sets["TXT"][0] for sets in names.values())
    seal = fields[0].removesuffix(b"\r\n")
    own = [(one.partition(b":")[0].lower(), one.removesuffix(b"\r\n")) for one in (fields[2], fields[1])]
    own.append((b"arc-seal", without_signature(seal)))
    tags = parse_tags(seal.partition(b":")[2])
    return parse_key(record.encode()).verify(canonical_fields(own, "relaxed"), read_base64(tags[b"b"], "b="))


def test_the_suite_is_whole() -> None:
    assert (len(VALIDATION), len(SIGNING)) == (171, 17)
