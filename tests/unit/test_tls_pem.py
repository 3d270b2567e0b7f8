"""Files of certificates and keys: what they hold, what is wrong with them, and the layouts of folders."""

from __future__ import annotations

import base64
import itertools
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from mailgate.tls.pem import Source, TlsError, read_certificates, read_key_pair, sources
from tests.unit.certificates import authority, issue

ROOT = authority()
MIDDLE = authority("Middle", ROOT)
LOWER = authority("Lower", MIDDLE)
LEAF = issue(LOWER, "MX1.Example.org", "*.example.org", "postmaster@example.org")

BAD_KEY = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
BAD_CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
ENCRYPTED_KEY = LEAF.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
DSA_KEY = dsa.generate_private_key(2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def with_bad_name() -> bytes:
    """A certificate whose DNS name is not ASCII, with its key."""
    good = issue(None, "qqq.example", subject="other")
    der = good.certificate.public_bytes(Encoding.DER).replace(b"qqq.example", b"q\xffq.example")
    text = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n" + good.key_pem


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_a_file_may_hold_its_parts_in_any_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    parts = [LEAF.certificate_pem, LOWER.certificate_pem, MIDDLE.certificate_pem, LEAF.key_pem]
    path = tmp_path / "all.pem"
    path.write_bytes(b"Bag Attributes\n  some: text\n".join(parts[number] for number in order))
    pair = read_key_pair(Source(path, path))
    assert pair.certificate == LEAF.certificate
    assert pair.chain == (LOWER.certificate, MIDDLE.certificate)
    assert pair.key.public_key() == LEAF.key.public_key()
    assert pair.names == ("mx1.example.org", "*.example.org")


def test_a_chain_keeps_what_issued_nothing_at_its_end(tmp_path: Path) -> None:
    stranger = authority("Stranger")
    path = tmp_path / "all.pem"
    path.write_bytes(stranger.certificate_pem + ROOT.certificate_pem * 2 + MIDDLE.certificate_pem + LEAF.pem)
    chain = read_key_pair(Source(path, path)).chain
    assert chain == tuple(one.certificate for one in (LOWER, MIDDLE, ROOT, stranger))


@pytest.mark.parametrize("kind", ["ec", "rsa", "ed25519"])
def test_kinds_of_keys(tmp_path: Path, kind: str) -> None:
    path = issue(None, "mx.example", key=kind).write(tmp_path / "one.pem")
    assert read_key_pair(Source(path, path)).chain == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "holds no certificate"),
        (b"\xff\xfe binary \x00", "holds no certificate"),
        (LEAF.key_pem, "holds no certificate"),
        (LEAF.certificate_pem, "holds no private key"),
        (LEAF.certificate_pem + ROOT.key_pem, "the private key does not belong to the certificate"),
        (LEAF.certificate_pem + BAD_KEY, "holds a private key that cannot be understood"),
        (
            LEAF.certificate_pem + ENCRYPTED_KEY,
            "the private key is encrypted, and nobody can be asked for its passphrase",
        ),
        (LEAF.certificate_pem + DSA_KEY, "a private key of this kind does not serve TLS"),
        (with_bad_name(), "holds a certificate that cannot be understood"),
        (BAD_CERTIFICATE + LEAF.key_pem, "holds a certificate that cannot be understood"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "one.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TlsError, match=f"^{re.escape(f'{path}: {message}')}$"):
        read_key_pair(Source(path, path))


def test_a_key_beside_a_pem_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "one.pem"
    path.write_bytes(LEAF.certificate_pem)
    (tmp_path / "one.key").write_bytes(LEAF.key_pem)
    with pytest.raises(TlsError, match=r"holds no private key: append one\.key to it, or call it one\.crt$"):
        read_key_pair(Source(path, path))


def test_a_key_is_in_no_repr_and_no_error(tmp_path: Path) -> None:
    path = LEAF.write(tmp_path / "one.pem")
    assert "PrivateKey" not in repr(read_key_pair(Source(path, path)))
    path.write_bytes(LEAF.certificate_pem + BAD_KEY)
    with pytest.raises(TlsError) as raised:
        read_key_pair(Source(path, path))
    assert raised.value.__suppress_context__


def test_authorities_need_no_key(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(ROOT.certificate_pem + MIDDLE.certificate_pem)
    assert read_certificates(path) == [ROOT.certificate, MIDDLE.certificate]


def test_the_layouts_of_a_folder(tmp_path: Path) -> None:
    for name in ("z.pem", "b.crt", "b.key", "c.key", "README", ".hidden.pem", "a.pem", "a.txt"):
        (tmp_path / name).touch()
    for name in ("m", "empty", "half", ".git", "dir.pem"):
        (tmp_path / name).mkdir()
    for name in ("m/fullchain.pem", "m/privkey.pem", "half/privkey.pem", ".git/privkey.pem"):
        (tmp_path / name).touch()
    assert [tuple(str(path.relative_to(tmp_path)) for path in source.files) for source in sources(tmp_path)] == [
        ("a.pem",),
        ("b.crt", "b.key"),
        ("c.crt", "c.key"),
        ("half/fullchain.pem", "half/privkey.pem"),
        ("m/fullchain.pem", "m/privkey.pem"),
        ("z.pem",),
    ]


def test_a_folder_of_certbot_is_one_certificate(tmp_path: Path) -> None:
    for name in ("cert.pem", "chain.pem", "fullchain.pem", "privkey.pem", "README"):
        (tmp_path / name).touch()
    assert sources(tmp_path) == [Source(tmp_path / "fullchain.pem", tmp_path / "privkey.pem")]


def test_a_key_of_its_own_is_found_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "a.crt").write_bytes(LEAF.certificate_pem + LEAF.chain_pem)
    (tmp_path / "a.key").write_bytes(LEAF.key_pem)
    [source] = sources(tmp_path)
    assert read_key_pair(source).certificate == LEAF.certificate
    source.key.unlink()
    with pytest.raises(TlsError, match=rf"^{re.escape(str(source.key))}: cannot be read: No such file"):
        read_key_pair(source)
