"""A program that is posted mail: it checks who has sent it, and keeps each message once, with Python alone.

python3 app.py application.secret 8080 inbox/
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SECRETS = [line.encode() for line in Path(sys.argv[1]).read_text().split("\n") if line and not line.startswith("#")]
INBOX = Path(sys.argv[3])
#: Seconds for which a request is good, and the largest that is read.
FRESH, LARGEST = 300, 100 * 1024**2


def is_ours(signature: str, body: bytes) -> bool:
    """Whether mailgate has signed it, a moment ago."""
    parts = [part.partition("=") for part in signature.split(",")]
    moment = next((value for name, _, value in parts if name == "t"), "0")
    if not (moment.isdecimal() and len(moment) < 13) or abs(time.time() - int(moment)) > FRESH:
        return False
    values = [hmac.new(secret, moment.encode() + b"." + body, hashlib.sha256).hexdigest() for secret in SECRETS]
    shown = [value for name, _, value in parts if name == "v1"]
    return any(hmac.compare_digest(one.encode(), each.encode()) for one in values for each in shown)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", "0"))
        if size > LARGEST:
            self.close_connection = True
            self.answer(413)
            return
        body = self.rfile.read(size)
        if not is_ours(self.headers.get("Mailgate-Signature", ""), body):
            self.answer(403)  # mailgate tries again: perhaps our secret is being replaced
            return
        mail = json.loads(body)
        refused = {}
        for recipient in mail["recipients"]:
            if "unsubscribe" in (mail["subject"] or "").lower():
                refused[recipient["address"]] = {"result": "refused", "reason": "Nobody reads this here"}
                continue
            # The id is the same whenever this message comes for this recipient: written twice, it is one file.
            draft = INBOX / f"{recipient['id']}.new"
            with draft.open("wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())  # before mailgate hears that it is ours
            draft.rename(INBOX / f"{recipient['id']}.json")
        self.answer(200, {"recipients": refused})

    def answer(self, status: int, said: object = None) -> None:
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    INBOX.mkdir(exist_ok=True)
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
