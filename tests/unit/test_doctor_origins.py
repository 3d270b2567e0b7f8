"""Whether a mail server in front of a listener with judge_origin has said from whom its mail comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mailgate.doctor.origins import origin_checks
from mailgate.events import Event, MessageAccepted, Refused
from mailgate.observe.history import History
from mailgate.observe.recorder import Recorder
from tests.unit.doctor_stand import found, make_site

LISTENER = {
    "name": "postfix",
    "role": "outbound",
    "endpoints": ["tcp:10025"],
    "pipeline": "in",
    "xforward_from": ["127.0.0.1"],
    "trusted_networks": ["127.0.0.1"],
    "judge_origin": True,
}
SESSION: dict[str, Any] = {"at": 1e9, "session": "S", "client": "unknown[127.0.0.1]", "helo": "mx"}


def accepted(listener: str = "postfix", **more: Any) -> Event:
    values: dict[str, Any] = {
        "listener": listener,
        "queue_id": "A1",
        "sender": "",
        "recipients": ("bob@here.test",),
        "size": 1,
    }
    return MessageAccepted(**SESSION, **values | more)


def refused(**more: Any) -> Event:
    return Refused(**SESSION, listener="postfix", stage="mail", filter="", reason="", reply="550", **more)


@pytest.mark.parametrize(
    ("events", "severity", "words"),
    [
        ([], "note", "knows of no mail by it"),
        ([accepted("mx"), refused()], "note", "knows of no mail by it"),
        ([accepted(), refused(queue_id="A2")], "warn", "mails of late: 2; of none"),
        ([accepted(), accepted("mx", origin="unknown[192.0.2.1]")], "warn", "mails of late: 1; of none"),
        ([accepted(), accepted(origin="unknown[192.0.2.1]")], "ok", "mails of late: 2; of 1"),
        ([refused(queue_id="A2", origin="unknown[192.0.2.1]")], "ok", "mails of late: 1; of 1"),
    ],
)
def test_what_the_last_mails_say(tmp_path: Path, events: list[Event], severity: str, words: str) -> None:
    site = make_site(tmp_path, listeners=[LISTENER, LISTENER | {"name": "mx", "judge_origin": False}])
    if events:
        recorder = Recorder([History(site.config.gateway.state_dir / "history", keep=1e12, max_size=2**30)], delay=0.0)
        for event in events:
            recorder.observe(event)
        recorder.close()
    (told,) = found(site, origin_checks(site))
    assert (told.subject, told.severity) == ("listeners[postfix]", severity)
    assert words in told.says
    if severity != "ok":
        assert "smtp_send_xforward_command=yes" in told.fix
