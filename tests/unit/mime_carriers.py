"""Messages that carry a marker in all the ways in which programs may come to it, for tests of what looks into mail."""

from __future__ import annotations

import base64
import binascii
import quopri
import re

#: What a finder must find, wherever it is. It is no text that anybody writes by accident.
MARKER = b"X-CARRIED-" + b"0123456789abcdef" * 4 + b"-DERRAC"
BASE64 = base64.encodebytes(MARKER).replace(b"\n", b"\r\n").rstrip()
QUOTED = quopri.encodestring(MARKER.replace(b"-", b"-\n")).replace(b"\n", b"\r\n")


def uuencoded(name: bytes = b"a.exe") -> bytes:
    lines = [binascii.b2a_uu(MARKER[at : at + 45]) for at in range(0, len(MARKER), 45)]
    return (b"begin 644 " + name + b"\n" + b"".join(lines) + b"`\nend\n").replace(b"\n", b"\r\n")


_HQX = b"!\"#$%&'()*+,-012345689@ABCDEFGHIJKLMNPQRSTUVXYZ[`abcdefhijklmpqr"
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def binhexed(name: bytes, data: bytes) -> bytes:
    """BinHex 4.0 (RFC 1741), with runs of one octet made short."""
    head = bytes([len(name)]) + name + b"\0BINA????\0\0" + len(data).to_bytes(4, "big") + bytes(4)
    octets = head + binascii.crc_hqx(head, 0).to_bytes(2, "big") + data + binascii.crc_hqx(data, 0).to_bytes(2, "big")
    octets = octets.replace(b"\x90", b"\x90\0")
    octets = re.sub(
        rb"(?s)\x90\0|([^\x90])\1{3,254}",
        lambda run: run[1] + b"\x90" + bytes([len(run[0])]) if run[1] else run[0],
        octets,
    )
    packed = base64.b64encode(octets).rstrip(b"=").translate(bytes.maketrans(_ALPHABET, _HQX))
    lines = [packed[at : at + 64] for at in range(0, len(packed), 64)]
    return b"(This file must be converted with BinHex 4.0)\r\n\r\n:" + b"\r\n".join(lines) + b":\r\n"


def yencoded(name: bytes, data: bytes) -> bytes:
    """yEnc 1.3, as one part."""
    octets = bytes((one + 42) & 255 for one in data)
    octets = re.sub(rb"[\x00\n\r=]", lambda one: b"=" + bytes([(one[0][0] + 64) & 255]), octets)
    lines = re.findall(rb"(?s)(?:=.|.){1,128}", octets)
    head = b"=ybegin line=128 size=%d name=%b\r\n" % (len(data), name)
    return head + b"\r\n".join(lines) + b"\r\n=yend size=%d\r\n" % len(data)


def _lines(*lines: bytes) -> bytes:
    return b"\r\n".join(lines) + b"\r\n"


def part(*fields: bytes, body: bytes = BASE64) -> bytes:
    return _lines(*fields, b"", body)


_CTE = b"Content-Transfer-Encoding: "
_FILE = b"Content-Type: application/octet-stream"
_TOP = b"From: a@client.example\r\nMIME-Version: 1.0\r\n"


def mixed(*parts: bytes, boundary: bytes = b"b", head: bytes = b'Content-Type: multipart/mixed; boundary="b"') -> bytes:
    between = b"--" + boundary + b"\r\n"
    return _TOP + head + b"\r\n\r\n" + b"".join(between + one + b"\r\n" for one in parts) + b"--" + boundary + b"--\r\n"


ENCODED = part(_FILE, _CTE + b"base64")
TEXT = part(b"Content-Type: text/plain", body=b"Hello")
INNER = mixed(TEXT, ENCODED, boundary=b"c", head=b"Content-Type: multipart/mixed; boundary=c")

CARRIERS: dict[str, bytes] = {
    "a plain message": _TOP + b"\r\n" + MARKER + b"\r\n",
    "no header at all": MARKER,
    "bare line feeds": mixed(TEXT, ENCODED).replace(b"\r\n", b"\n"),
    "base64": mixed(TEXT, ENCODED),
    "quoted-printable": mixed(part(_FILE, _CTE + b"quoted-printable", body=b"".join(b"=%02X" % one for one in MARKER))),
    "base64 by other names": mixed(part(_FILE, _CTE + b"BASE-64")),
    "a quoted label": mixed(part(_FILE, _CTE + b'"base64"')),
    "a label with a comment": mixed(part(_FILE, _CTE + b"(really) base64")),
    "a label with a parameter": mixed(part(_FILE, _CTE + b"base64; x=y")),
    "an unknown label": mixed(part(_FILE, _CTE + b"x-something")),
    "no label": mixed(part(_FILE)),
    "a label that lies": mixed(part(_FILE, _CTE + b"7bit")),
    "a label that lies the other way": mixed(part(_FILE, _CTE + b"base64", body=b"!! " + MARKER)),
    "two labels": mixed(part(_FILE, _CTE + b"7bit", _CTE + b"base64")),
    "two labels, the other way": mixed(part(_FILE, _CTE + b"base64", _CTE + b"7bit")),
    "a folded label": mixed(part(_FILE, b"Content-Transfer-Encoding:\r\n base64")),
    "a space before the colon": mixed(part(_FILE, b"Content-Transfer-Encoding : base64")),
    "padding in the middle": mixed(
        part(_FILE, _CTE + b"base64", body=base64.b64encode(MARKER[:20]) + base64.b64encode(MARKER[20:]))
    ),
    "garbage in the alphabet": mixed(part(_FILE, _CTE + b"base64", body=BASE64.replace(b"0", b"0*!"))),
    "base64 cut off": mixed(part(_FILE, _CTE + b"base64", body=base64.b64encode(MARKER + b"xx").rstrip(b"="))),
    "base64 with hyphens before it": mixed(part(_FILE, _CTE + b"base64", body=b"----\r\n" + BASE64)),
    "uuencode": mixed(part(b"Content-Type: text/plain", body=uuencoded())),
    "uuencode, labelled": mixed(part(_FILE, _CTE + b"x-uuencode", body=uuencoded())),
    "uuencode in a plain message": _TOP + b"\r\nHello\r\n" + uuencoded(),
    "uuencode in the preamble": mixed(TEXT).replace(b"\r\n\r\n--b", b"\r\n\r\n" + uuencoded() + b"--b", 1),
    "uuencode in the epilogue": mixed(TEXT) + uuencoded(),
    "uuencode in base64": mixed(
        part(b"Content-Type: text/plain", _CTE + b"base64", body=base64.encodebytes(uuencoded()))
    ),
    "BinHex": mixed(part(b"Content-Type: application/mac-binhex40", body=binhexed(b"a.exe", MARKER))),
    "BinHex, labelled": mixed(part(_FILE, _CTE + b"binhex40", body=binhexed(b"a.exe", MARKER))),
    "BinHex in a plain message": _TOP + b"\r\nHello\r\n" + binhexed(b"a.exe", MARKER),
    "BinHex without its line": mixed(part(_FILE, body=binhexed(b"a.exe", MARKER).partition(b")\r\n")[2])),
    "yEnc": mixed(part(_FILE, _CTE + b"8bit", body=yencoded(b"a.exe", MARKER))),
    "yEnc in a plain message": _TOP + b"\r\nHello\r\n" + yencoded(b"a.exe", MARKER),
    "the preamble": mixed(TEXT).replace(b"\r\n\r\n--b", b"\r\n\r\n" + MARKER + b"\r\n--b", 1),
    "the epilogue": mixed(TEXT) + MARKER,
    "base64 in the epilogue": mixed(TEXT) + b"\r\n" + BASE64,
    "a part behind the last delimiter": mixed(TEXT) + b"--b\r\n" + ENCODED + b"--b--\r\n",
    "no last delimiter": mixed(TEXT, ENCODED).replace(b"--b--", b""),
    "no first delimiter's blank line": _TOP + b"Content-Type: multipart/mixed; boundary=b\r\n--b\r\n" + ENCODED,
    "a nested multipart": mixed(TEXT, INNER),
    "a nested multipart of the same boundary": mixed(
        TEXT, mixed(TEXT, ENCODED, head=b"Content-Type: multipart/alternative; boundary=b")
    ),
    "a nested multipart that is not closed": mixed(INNER.replace(b"--c--", b""), TEXT),
    "two boundaries in one field": mixed(TEXT, ENCODED, head=b"Content-Type: multipart/mixed; boundary=x; boundary=b"),
    "two boundaries, the other way": mixed(
        TEXT, ENCODED, head=b"Content-Type: multipart/mixed; boundary=b; boundary=x"
    ),
    "two Content-Types": mixed(
        TEXT, ENCODED, head=b"Content-Type: text/plain\r\nContent-Type: multipart/mixed; boundary=b"
    ),
    "two Content-Types, two boundaries": mixed(
        TEXT, ENCODED, head=b"Content-Type: multipart/mixed; boundary=x\r\nContent-Type: multipart/mixed; boundary=b"
    ),
    "no boundary": mixed(TEXT, ENCODED, head=b"Content-Type: multipart/mixed"),
    "a wrong boundary": mixed(TEXT, ENCODED, head=b"Content-Type: multipart/mixed; boundary=other"),
    "an empty boundary": mixed(TEXT, ENCODED, boundary=b"", head=b'Content-Type: multipart/mixed; boundary=""'),
    "a boundary with spaces": mixed(
        TEXT, ENCODED, boundary=b"a b", head=b'Content-Type: multipart/mixed; boundary="a b"'
    ),
    "a boundary in single quotes": mixed(
        TEXT, ENCODED, boundary=b"'b'", head=b"Content-Type: multipart/mixed; boundary='b'"
    ),
    "a quoted boundary with quoted pairs": mixed(
        TEXT, ENCODED, boundary=b'a"b', head=b'Content-Type: multipart/mixed; boundary="a\\"b"'
    ),
    "a delimiter with more behind it": mixed(TEXT, ENCODED).replace(b"--b\r\n", b"--b and more\r\n"),
    "a delimiter with spaces behind it": mixed(TEXT, ENCODED).replace(b"--b\r\n", b"--b  \t\r\n"),
    "an unknown multipart": mixed(TEXT, ENCODED, head=b"Content-Type: multipart/x-odd; boundary=b"),
    "a multipart in capitals": mixed(TEXT, ENCODED, head=b"CONTENT-TYPE: MULTIPART/MIXED; BOUNDARY=b"),
    "a multipart in base64": _TOP
    + _lines(b"Content-Type: multipart/mixed; boundary=c", _CTE + b"base64", b"", base64.encodebytes(INNER)),
    "no MIME-Version": mixed(TEXT, ENCODED).replace(b"MIME-Version: 1.0\r\n", b""),
    "no MIME header, but its structure": b"From: a@client.example\r\n\r\n--b\r\n" + ENCODED + b"--b--\r\n",
    "a message in a message": mixed(part(b"Content-Type: message/rfc822", body=INNER)),
    "a message in base64": mixed(
        part(b"Content-Type: message/rfc822", _CTE + b"base64", body=base64.encodebytes(INNER))
    ),
    "a message as a file": mixed(part(_FILE, _CTE + b"base64", body=base64.encodebytes(INNER))),
    "a part of a message": mixed(part(b"Content-Type: message/partial; number=1; id=x", body=INNER)),
    "an external body": mixed(part(b"Content-Type: message/external-body; access-type=x", body=ENCODED)),
    "a report": mixed(part(b"Content-Type: message/delivery-status", body=INNER)),
    "a signed message": mixed(TEXT, INNER, head=b"Content-Type: multipart/signed; boundary=b; protocol=x"),
    "a line in the header that is no field": mixed(part(_FILE, b"this is no field", _CTE + b"base64")),
    "a header without a blank line": mixed(TEXT, _lines(MARKER)),
    "a line of mbox before the header": b"From a Thu Jan  1 00:00:00 2026\r\n" + mixed(TEXT, ENCODED),
    "a text type": mixed(part(b"Content-Type: text/html", _CTE + b"base64")),
    "no type": mixed(part(b"Content-Type:", _CTE + b"base64")),
    "a digest": mixed(b"\r\n" + INNER, head=b"Content-Type: multipart/digest; boundary=b"),
    "comments in the type": mixed(TEXT, ENCODED, head=b"Content-Type: (a) multipart (b) / (c) mixed (d); boundary=b"),
    "a boundary with a comment behind it": mixed(
        TEXT, ENCODED, head=b'Content-Type: multipart/mixed; boundary="b" (c)'
    ),
}
