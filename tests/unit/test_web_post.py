"""Messages for applications: what is read of them, what is sent, and what answers mean."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import quopri
import random
import tracemalloc
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import FileStorage
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request as FormRequest

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient, Origin
from mailgate.interfaces import OutcomeKind
from mailgate.message import AddHeader, Content, RemoveHeader, rendered
from mailgate.relay.web_post.answers import Answer, results_of
from mailgate.relay.web_post.decoding import as_base64, decoded
from mailgate.relay.web_post.reading import read_mail
from mailgate.relay.web_post.request import Form, Request, compose

SECRETS = (b"the newer secret of both", b"the older secret of both")
EDITS = (
    RemoveHeader("X-Spam-Score"),
    AddHeader("Authentication-Results", "mx.example.org; spf=pass smtp.mailfrom=ann@client.test; dmarc=fail (p=none)"),
    AddHeader("X-Spam-Score", "2.5"),
)


def recipient(number: int, address: str) -> EnvelopeRecipient:
    return EnvelopeRecipient(number, Address.parse(address), "app")


TWO = (recipient(1, "tickets@app.test"), recipient(2, "sales@app.test"))


def envelope(recipients: tuple[EnvelopeRecipient, ...] = TWO) -> Envelope:
    return Envelope(
        queue_id="0A1B2C3D4E5F6G7H",
        sender=Address.parse("ann@client.test"),
        recipients=recipients,
        received=1_700_000_000.5,
        size=1,
        origin=Origin(address="192.0.2.1", name="client.test", helo="client.test", protocol="ESMTP"),
        edits=EDITS,
    )


def posted(octets: bytes | Content, form: Form = "json", recipients: tuple[EnvelopeRecipient, ...] = TWO) -> Request:
    content = octets if isinstance(octets, Content) else Content(octets)
    return compose(form, "app", envelope(), recipients, content, secrets=SECRETS, moment=1_700_000_100)


def body_of(request: Request) -> bytes:
    """The body, which is as long as was said, and signed, each time that it is made."""
    whole = b"".join(request.pieces())
    assert len(whole) == request.length
    assert whole == b"".join(request.pieces())
    signed = b"1700000100." + whole
    values = [hmac.new(one, signed, hashlib.sha256).hexdigest() for one in SECRETS]
    assert dict(request.fields)["Mailgate-Signature"] == f"t=1700000100,v1={values[0]},v1={values[1]}"
    return whole


def told(octets: bytes) -> Any:
    return json.loads(body_of(posted(octets)))


def rich() -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Ann Ä. <ann@client.test>"
    message["To"] = "tickets@app.test, Sales <sales@app.test>"
    message["Cc"] = "boss@client.test"
    message["Subject"] = "Füße & mehr"
    message["Date"] = "Tue, 14 Nov 2023 22:13:20 +0000"
    message["Message-ID"] = "<1@client.test>"
    message.set_content("Grüße\n")
    message.add_alternative("<p>Grüße</p>", subtype="html")
    message.add_attachment(bytes(range(256)) * 3, maintype="image", subtype="png", filename="bücher.png")
    message.add_attachment("a;b\n", subtype="csv", filename="table.csv")
    return message


def wire(message: EmailMessage) -> bytes:
    return message.as_bytes(policy=policy.SMTP)


def test_a_message_is_taken_apart() -> None:
    found = told(wire(rich()))
    assert found["id"] == "0A1B2C3D4E5F6G7H"
    assert found["sender"] == "ann@client.test"
    assert found["recipients"] == [
        {"id": "0A1B2C3D4E5F6G7H-1", "address": "tickets@app.test"},
        {"id": "0A1B2C3D4E5F6G7H-2", "address": "sales@app.test"},
    ]
    assert found["client"]["address"] == "192.0.2.1"
    assert found["from"] == [{"name": "Ann Ä.", "address": "ann@client.test"}]
    assert [one["address"] for one in found["to"]] == ["tickets@app.test", "sales@app.test"]
    assert found["cc"] == [{"name": "", "address": "boss@client.test"}]
    assert (found["subject"], found["message_id"], found["date"]) == ("Füße & mehr", "1@client.test", 1_700_000_000)
    assert (found["text"], found["html"], found["problem"]) == ("Grüße\n", "<p>Grüße</p>\n", "")
    image, table = found["attachments"]
    assert (image["name"], image["type"], image["disposition"], image["size"]) == (
        "bücher.png",
        "image/png",
        "attachment",
        768,
    )
    assert base64.b64decode(image["content"]) == bytes(range(256)) * 3
    assert (table["name"], table["type"], base64.b64decode(table["content"])) == ("table.csv", "text/csv", b"a;b\r\n")


@pytest.mark.parametrize("kind", ["mixed", "signed", "alternative"])
def test_a_message_without_the_parts_that_it_tells_of_is_not_lost(kind: str) -> None:
    octets = f"Content-Type: multipart/{kind}; boundary=b\r\n\r\nWhere are the parts?\r\n".encode()
    found = told(octets)
    (one,) = found["attachments"]
    assert (one["name"], one["type"], base64.b64decode(one["content"])) == ("message.eml", "message/rfc822", octets)
    assert "no part" in found["problem"]


@pytest.mark.parametrize("octets", [b"Subject: x\r\n\r\n", b"Subject: x\r\n", b""])
def test_a_message_without_a_body_has_no_attachment(octets: bytes) -> None:
    found = told(octets)
    assert (found["attachments"], found["problem"]) == ([], "")


def test_headers_are_in_their_order_with_all_edits_made() -> None:
    found = told(b"X-Spam-Score: -99\r\nReceived: one\r\nReceived: two,\r\n three\r\n\r\nx\r\n")
    assert [name for name, _ in found["headers"]] == ["X-Spam-Score", "Authentication-Results", "Received", "Received"]
    assert found["headers"][0][1] == "2.5"
    assert [value for name, value in found["headers"] if name == "Received"] == ["one", "two, three"]


def test_evidence_is_only_what_we_have_added() -> None:
    forged = b"Authentication-Results: mx.example.org; dmarc=pass header.from=bank.test\r\n\r\nx\r\n"
    found = told(forged)
    assert [(one["method"], one["result"]) for one in found["authentication"]] == [("spf", "pass"), ("dmarc", "fail")]
    assert found["authentication"][0]["properties"] == {"smtp.mailfrom": "ann@client.test"}
    assert [name for name, _ in found["added"]] == ["X-Spam-Score", "Authentication-Results"]


def form_of(request: Request) -> FormRequest:
    fields = dict(request.fields)
    builder = EnvironBuilder(
        method="POST", input_stream=None, data=body_of(request), content_type=fields["Content-Type"]
    )
    return FormRequest(builder.get_environ())


def read(file: FileStorage) -> tuple[str | None, str | None, bytes]:
    return file.filename, file.mimetype, file.read()


def test_as_a_form_attachments_are_files() -> None:
    form = form_of(posted(wire(rich()), "form"))
    found = json.loads(form.form["mail"])
    assert [one["field"] for one in found["attachments"]] == ["attachment-1", "attachment-2"]
    assert found["text"] == "Grüße\n"
    assert read(form.files["attachment-1"]) == ("bücher.png", "image/png", bytes(range(256)) * 3)
    assert read(form.files["attachment-2"]) == ("table.csv", "text/csv", b"a;b\r\n")


def test_raw_is_the_message_as_any_next_hop_gets_it() -> None:
    octets = b"X-Spam-Score: -99\r\nSubject: \xff\r\n\r\n\x00raw\r\n"
    form = form_of(posted(octets, "raw"))
    assert json.loads(form.form["mail"])["sender"] == "ann@client.test"
    assert read(form.files["message"]) == (
        "message.eml",
        "message/rfc822",
        b"".join(rendered(Content(octets), EDITS)),
    )


def test_names_of_files_cannot_leave_their_place() -> None:
    message = b'Content-Type: image/png; name="a\\"; name=\\"mail.png"\r\n\r\nx'
    form = form_of(posted(message, "form"))
    assert set(form.files) == {"attachment-1"}
    assert set(form.form) == {"mail"}


def test_signed_mail_is_looked_into() -> None:
    found = told(
        b'Content-Type: multipart/signed; boundary="s\\"1"\r\n\r\n'
        b'--s"1\r\nContent-Type: multipart/mixed; boundary=in\r\n\r\n'
        b"--in\r\n\r\nsigned text\r\n--in\r\nContent-Type: image/png\r\n\r\npng\r\n--in--\r\n"
        b'--s"1\r\nContent-Type: application/pgp-signature; name=signature.asc\r\n\r\nPGP\r\n--s"1--\r\nrest'
    )
    assert found["text"] == "signed text"
    assert [(one["type"], base64.b64decode(one["content"])) for one in found["attachments"]] == [
        ("image/png", b"png"),
        ("application/pgp-signature", b"PGP"),
    ]


def test_a_message_in_a_message_is_one_attachment() -> None:
    inner = b"Subject: inner\r\nContent-Type: multipart/mixed; boundary=in\r\n\r\n--in\r\n\r\ninner text\r\n--in--\r\n"
    found = told(
        b"Content-Type: multipart/mixed; boundary=out\r\n\r\n--out\r\n\r\nouter\r\n"
        b"--out\r\nContent-Type: message/rfc822\r\nContent-Disposition: attachment; filename=fw.eml\r\n\r\n"
        + inner
        + b"\r\n--out\r\nContent-Type: message/rfc822\r\n\r\nSubject: without a body\r\n--out--\r\n"
    )
    assert found["text"] == "outer"
    first, second = found["attachments"]
    assert (first["name"], first["type"], base64.b64decode(first["content"])) == ("fw.eml", "message/rfc822", inner)
    assert base64.b64decode(second["content"]) == b"Subject: without a body"


def test_what_nobody_can_take_apart_goes_whole() -> None:
    nested = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (number, number) for number in range(120)
    )
    found = told(nested)
    assert "100 parts inside one another" in found["problem"]
    (whole,) = found["attachments"]
    assert (whole["type"], base64.b64decode(whole["content"])) == ("message/rfc822", nested)


def test_many_signed_parts_are_not_each_looked_into() -> None:
    part = b"--o\r\nContent-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n\r\nx\r\n--s--\r\n"
    message = b"Content-Type: multipart/mixed; boundary=o\r\n\r\n" + part * 50 + b"--o--\r\n"
    kinds = [one["type"] for one in told(message)["attachments"]]
    assert kinds == ["multipart/signed"] * 40


def test_a_text_that_is_too_long_is_an_attachment() -> None:
    found = told(b"Subject: x\r\n\r\n" + b"y" * (1024 * 1024 + 1))
    assert found["text"] is None
    assert found["attachments"][0]["size"] == 1024 * 1024 + 1


@pytest.mark.parametrize(
    "octets", [b"", b"\r\n", b"\r\nbody", b"Subject: only\r\n", b"no header at all", b"A: b\r\n\r\n"]
)
def test_every_message_can_be_sent(octets: bytes) -> None:
    assert told(octets)["id"]
    assert b"message/rfc822" in body_of(posted(octets, "raw"))


def test_an_empty_file_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert json.loads(body_of(posted(Content.in_file(tmp_path / "empty"))))["attachments"] == []


@given(st.binary(max_size=2000))
def test_nothing_in_a_message_breaks_what_is_sent(octets: bytes) -> None:
    found = told(b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n" + octets + b"\r\n--a--\r\n")
    assert found["sender"] == "ann@client.test"
    assert set(form_of(posted(octets, "form")).form) == {"mail"}


@given(st.binary(max_size=5000), st.sampled_from(["base64", "quoted-printable", "8bit"]), st.randoms())
def test_decoding_in_pieces_is_decoding(data: bytes, label: str, chance: random.Random) -> None:
    encoded = {
        "base64": base64.encodebytes(data).replace(b"\n", b"\r\n"),
        "quoted-printable": quopri.encodestring(data, quotetabs=True),
        "8bit": data,
    }[label]
    before = chance.randbytes(chance.randrange(3))
    octets = before + encoded + b"behind"
    assert b"".join(decoded(octets, len(before), len(before) + len(encoded), label)) == data
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(5))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert b"".join(as_base64(pieces)) == base64.b64encode(data)


@pytest.mark.parametrize("label", ["base64", "quoted-printable"])
def test_decoding_goes_over_the_ends_of_steps(label: str) -> None:
    data = random.Random(1).randbytes(200_000)
    lines = {"base64": base64.b64encode(data), "quoted-printable": b"".join(b"=%02X" % one for one in data)}[label]
    assert b"".join(decoded(lines, 0, len(lines), label)) == data


@pytest.mark.parametrize("form", ["json", "form", "raw"])
def test_fifty_megabytes_are_never_in_memory(tmp_path: Path, form: Form) -> None:
    path = tmp_path / "large"
    line = base64.b64encode(bytes(57)) + b"\r\n"
    with path.open("wb") as file:
        file.write(b"Content-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\n\r\nhello\r\n")
        file.write(b"--o\r\nContent-Type: application/zip; name=a.zip\r\nContent-Transfer-Encoding: base64\r\n\r\n")
        for _ in range(640):
            file.write(line * 1024)
        file.write(b"\r\n--o--\r\n")
    tracemalloc.start()
    try:
        request = posted(Content.in_file(path), form)
        length = sum(map(len, request.pieces()))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert length == request.length > 37_000_000
    assert most < 4_000_000


def test_headers_of_many_parts_are_not_all_in_memory(tmp_path: Path) -> None:
    part = b"--o\r\nX-Filler: " + b"\r\n ".join([b"x" * 900] * 20) + b"\r\n\r\n\r\n"
    path = tmp_path / "large"
    path.write_bytes(b"Content-Type: multipart/mixed; boundary=o\r\n\r\n" + part * 1000 + b"--o--\r\n")
    tracemalloc.start()
    try:
        mail, _ = read_mail(Content.in_file(path), ())
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert mail.problem == ""
    assert most < path.stat().st_size / 4


def test_the_key_is_of_the_message_and_its_recipients() -> None:
    def key(*recipients: EnvelopeRecipient) -> str:
        return dict(posted(b"\r\nx", recipients=recipients).fields)["Idempotency-Key"]

    assert key(TWO[0]) == "0A1B2C3D4E5F6G7H-1"
    assert key(*TWO) == key(*TWO)
    assert len({key(TWO[0]), key(TWO[1]), key(*TWO)}) == 3


def outcome(status: int, body: bytes = b"", kind: str = "", retry_after: str = "") -> tuple[OutcomeKind, str, float]:
    answer = Answer(status, body, kind, retry_after, 1_700_000_000.0)
    first, second = results_of(answer, TWO, "app.test[192.0.2.9]:443")
    assert (first.kind, first.reply) == (second.kind, second.reply)
    return first.kind, str(first.reply), first.rest


@pytest.mark.parametrize(
    ("status", "kind"),
    [(status, OutcomeKind.DELIVERED) for status in (200, 201, 202, 204)]
    + [(status, OutcomeKind.FAILED) for status in (400, 410, 413, 415, 422)]
    + [(status, OutcomeKind.DEFERRED) for status in (301, 302, 307, 401, 403, 404, 405, 408, 409, 425, 429, 499)]
    + [(status, OutcomeKind.DEFERRED) for status in (500, 501, 502, 503, 504, 505, 599)],
)
def test_a_status_means_for_all(status: int, kind: OutcomeKind) -> None:
    found, reply, _ = outcome(status)
    assert found is kind
    assert f"HTTP {status}" in reply


def test_the_words_of_a_refusal_reach_the_sender() -> None:
    assert outcome(422, b"no such\r\n250 ticket\x00" + b"!" * 5000, "text/plain; charset=utf-8")[1].startswith(
        "554 5.6.0 HTTP 422 "
    )
    for body in (b'{"reason": "closed since\\nMay"}', b'{"result": "refused", "reason": "closed since May"}'):
        assert ": closed since May" in outcome(410, body, "application/json")[1]
    assert outcome(400, b"<html>", "text/html")[1] == "554 5.6.0 HTTP 400 Bad Request"


@pytest.mark.parametrize(
    ("status", "retry_after", "rest"),
    [
        (503, "120", 120.0),
        (429, "Tue, 14 Nov 2023 22:14:20 GMT", 60.0),
        (503, "Tue, 14 Nov 2023 22:00:00 GMT", 0.0),
        (503, "99999999999999999999999", 3600.0),
        (503, "", 30.0),
        (503, "soon", 30.0),
        (503, "-5", 30.0),
        (500, "120", 0.0),
    ],
)
def test_who_asks_for_a_rest_gets_it(status: int, retry_after: str, rest: float) -> None:
    assert outcome(status, retry_after=retry_after)[2] == rest


def own(said: object, status: int = 200) -> list[tuple[OutcomeKind, str]]:
    body = json.dumps({"recipients": said}).encode()
    answer = Answer(status, body, "application/json")
    return [(one.kind, str(one.reply)) for one in results_of(answer, TWO, "app", "0A1B2C3D4E5F6G7H")]


def test_one_recipient_may_fare_otherwise() -> None:
    first, second = own({"sales@app.test": {"result": "refused", "reason": "no such queue"}})
    assert first[0] is OutcomeKind.DELIVERED
    assert second == (OutcomeKind.FAILED, "550 5.7.1 no such queue")
    assert [kind for kind, _ in own({"tickets@app.test": "deferred", "sales@app.test": "delivered"})] == [
        OutcomeKind.DEFERRED,
        OutcomeKind.DELIVERED,
    ]


@pytest.mark.parametrize("name", ["sales@app.test", "Sales@App.test", "0A1B2C3D4E5F6G7H-2"])
def test_recipients_are_named_by_address_or_id(name: str) -> None:
    assert [kind for kind, _ in own({name: "refused"})] == [OutcomeKind.DELIVERED, OutcomeKind.FAILED]


def test_a_refusal_of_somebody_else_may_be_of_anybody_who_is_not_named() -> None:
    first, second = own({"tickets@app.test": "delivered", "xn--sales@app.test": "refused"})
    assert (first[0], second[0]) == (OutcomeKind.DELIVERED, OutcomeKind.DEFERRED)
    assert "no recipient" in second[1]
    assert {kind for kind, _ in own({"other@app.test": "delivered"})} == {OutcomeKind.DELIVERED}


@pytest.mark.parametrize("said", [[{"address": "sales@app.test", "result": "refused"}], "refused", 1, False])
def test_verdicts_in_another_form_deliver_nothing(said: object) -> None:
    assert {kind for kind, _ in own(said)} == {OutcomeKind.DEFERRED}


@pytest.mark.parametrize(
    "body",
    [
        b'[{"address": "sales@app.test", "result": "refused"}]',
        b'"refused"',
        b' "deferred"\n',
        b'{"result": "refused", "reason": "Nobody sells here"}',
        b'{"result": "deferred"}',
    ],
)
def test_verdicts_without_recipients_deliver_nothing(body: bytes) -> None:
    found, reply, _ = outcome(200, body, "application/json")
    assert (found, reply) == (OutcomeKind.DEFERRED, "451 4.3.0 The application's answer is not understood")
    assert outcome(422, body, "application/json")[0] is OutcomeKind.FAILED
    assert outcome(200, body, "text/plain")[0] is OutcomeKind.DELIVERED


@pytest.mark.parametrize("said", ["bounced", 7, {"result": []}, {}, ["refused"], None])
def test_what_is_said_of_one_and_not_understood_is_for_now(said: object) -> None:
    first, second = own({"tickets@app.test": said})
    assert (first[0], second[0]) == (OutcomeKind.DEFERRED, OutcomeKind.DELIVERED)


def test_single_recipients_count_only_where_the_request_was_taken() -> None:
    assert {kind for kind, _ in own({"tickets@app.test": "delivered"}, status=500)} == {OutcomeKind.DEFERRED}


@pytest.mark.parametrize(
    "body", [b"", b"\r\n", b"[]", b"null", b"true", b'"OK"', b"{}", b'{"recipients": null}', b'{"result": ["x"]}']
)
def test_a_body_without_verdicts_may_come_with_a_status(body: bytes) -> None:
    assert outcome(200, body, "application/json")[0] is OutcomeKind.DELIVERED
    assert outcome(500, body, "application/json")[0] is OutcomeKind.DEFERRED


@pytest.mark.parametrize(
    "body", [b"{", b"[" * 60_000, b"\xff", b"1" * 60_000, b'{"recipients": {"sales@app.test": "ref']
)
def test_json_that_cannot_be_read_may_have_refused_somebody(body: bytes) -> None:
    found, reply, _ = outcome(200, body, "application/json; charset=utf-8")
    assert (found, reply) == (OutcomeKind.DEFERRED, "451 4.3.0 The application's answer is not understood")
    assert outcome(422, body, "application/json")[0] is OutcomeKind.FAILED
    assert outcome(200, body, "text/html")[0] is OutcomeKind.DELIVERED


def test_the_texts_are_those_that_mail_readers_show() -> None:
    octets = wire(rich())
    theirs = BytesParser(policy=policy.SMTP).parsebytes(octets)
    mail, _ = read_mail(Content(octets), ())
    plain, html = (theirs.get_body((kind,)) for kind in ("plain", "html"))
    assert isinstance(plain, EmailMessage)
    assert isinstance(html, EmailMessage)
    assert (mail.text, mail.html) == tuple(one.get_content().replace("\r\n", "\n") for one in (plain, html))


def test_what_an_answer_says_twice_and_differently_is_not_believed() -> None:
    found = own({"sales@app.test": "delivered", "0A1B2C3D4E5F6G7H-2": "refused"})
    assert [kind for kind, _ in found] == [OutcomeKind.DELIVERED, OutcomeKind.DEFERRED]
    assert own({"sales@app.test": "refused", "0A1B2C3D4E5F6G7H-2": "refused"})[1][0] is OutcomeKind.FAILED


@pytest.mark.parametrize("status", [401, 407])
def test_words_about_our_login_are_not_repeated_to_senders(status: int) -> None:
    assert "abc" not in outcome(status, b"the token abc has expired", "text/plain")[1]


def test_answers_are_those_of_http_and_findings_are_ours() -> None:
    said, unclear = (Answer(status, b"{", "application/json") for status in (422, 200))
    assert [(one.host, one.answered_in) for one in results_of(said, TWO, "app")] == [("app", "http")] * 2
    assert [(one.host, one.answered_in) for one in results_of(unclear, TWO, "app")] == [("", "smtp")] * 2


@pytest.mark.parametrize("form", ["json", "form"])
def test_a_long_text_is_not_written_in_one_go(form: Form) -> None:
    texts = b"".join(
        b"--o\r\nContent-Type: text/%b; charset=iso-8859-1\r\n\r\n%b\r\n" % (kind, b"\xe9\0" * 500_000)
        for kind in (b"plain", b"html")
    )
    request = posted(
        b"".join(b"X-%d: y\r\n" % number for number in range(20_000))
        + b"Content-Type: multipart/mixed; boundary=o\r\n\r\n"
        + texts
        + b"--o--\r\n",
        form,
    )
    assert max(map(len, request.pieces())) < 600_000
    body = body_of(request)
    found = json.loads(body if form == "json" else body.split(b"\r\n")[4])
    assert found["text"] == found["html"] == "\xe9\0" * 500_000
    assert len(found["headers"]) == 20_003


def parts_of(*parts: bytes) -> bytes:
    whole = b"".join(b"--o\r\n%b\r\n" % one for one in parts)
    return b"Content-Type: multipart/mixed; boundary=o\r\n\r\n" + whole + b"--o--\r\n"


@pytest.mark.parametrize("form", ["json", "form"])
@pytest.mark.parametrize("label", [b"7bit", b"base64", b"quoted-printable"])
def test_a_file_without_octets_is_an_attachment(form: Form, label: bytes) -> None:
    empty = b"Content-Type: text/plain; name=empty.txt\r\nContent-Transfer-Encoding: %b\r\n\r\n" % label
    octets = parts_of(b"\r\nhello", empty, b"Content-Type: application/x\r\n", b"Content-Type: text/html\r\n\r\n")
    if form == "form":
        posted_form = form_of(posted(octets, form))
        assert read(posted_form.files["attachment-1"]) == ("empty.txt", "text/plain", b"")
        found = json.loads(posted_form.form["mail"])
    else:
        found = told(octets)
        assert [(one["content"], one["size"]) for one in found["attachments"]] == [("", 0), ("", 0)]
    assert [(one["name"], one["type"]) for one in found["attachments"]] == [
        ("empty.txt", "text/plain"),
        ("", "application/x"),
    ]
    assert (found["text"], found["html"], found["problem"]) == ("hello", None, "")


def test_an_empty_message_in_a_message_holds_nothing_else() -> None:
    inner = b"Content-Type: message/rfc822\r\n\r\nContent-Type: image/png; name=a.png\r\n\r\n"
    assert [one["type"] for one in told(parts_of(inner))["attachments"]] == ["message/rfc822"]


@pytest.mark.parametrize("charset", ["windows-1252", "x-unknown", ""])
def test_a_text_that_is_a_file_keeps_its_octets_and_says_its_charset(charset: str) -> None:
    kind = b"text/csv" + (b"; charset=" + charset.encode() if charset else b"")
    (one,) = told(parts_of(b"Content-Type: " + kind + b"\r\n\r\nf\xfcr;\x80"))["attachments"]
    assert (one["charset"], base64.b64decode(one["content"])) == (charset, b"f\xfcr;\x80")


@pytest.mark.parametrize(
    ("charset", "octets", "text"),
    [
        ("windows-1252", b"\x80", "\u20ac"),
        ("utf-16", "h\u00e4".encode("utf-16"), "h\u00e4"),
        ("iso-2022-jp", "\u65e5".encode("iso-2022-jp"), "\u65e5"),
        ("x-unknown", "h\u00e4".encode(), "h\u00e4"),
        ("unicode_escape", b"\\u0041", "\\u0041"),
        ("utf-8", b"\xff", "\u00ff"),
    ],
)
def test_texts_in_odd_charsets_are_read_as_far_as_they_can_be(charset: str, octets: bytes, text: str) -> None:
    found = told(parts_of(b"Content-Type: text/plain; charset=%b\r\n\r\n%b" % (charset.encode(), octets)))
    assert (found["text"], found["attachments"]) == (text, [])


def test_a_message_that_is_encoded_against_the_rules_is_decoded() -> None:
    inner = b"Subject: inner\r\n\r\nbody"
    head = b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    (one,) = told(parts_of(head + base64.b64encode(inner)))["attachments"]
    assert (one["type"], base64.b64decode(one["content"])) == ("message/rfc822", inner)
