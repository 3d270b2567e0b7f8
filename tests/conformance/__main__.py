"""Drives a folder of SMTP and LMTP dialogues (`run_smtp_cases.py`, `smtp_cases.yml`) against a gateway started for it.

    python -m tests.conformance FOLDER [--only REGEX]

Each front of the gateway is tried with every case, and a next hop that records what reaches it. A case that fails is an
error, unless it stands in EXCEPTIONS with a reason.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mailgate.auth.secrets import make_forms
from tests.unit.certificates import authority, issue

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from parts import Gateway, folder, free_port

USER, PASSWORD = "user@example.com", "correct horse"

#: What may fail, by pattern of its name and on which fronts; and why.
EXCEPTIONS: dict[str, tuple[str, str]] = {
    "starttls-.*|requiretls-(under-tls|value)|auth-not-in-clear-text": (
        "tls",
        "the case begins in clear text and says STARTTLS; here TLS is there from the first octet",
    ),
    "starttls-message": ("submission", "the case does not log in, and this front takes mail from nobody who does not"),
    "requiretls-refused-in-clear-text": ("submission", "the runner says STARTTLS before it logs in"),
}


@dataclass(frozen=True)
class Front:
    """One way into the gateway, and the runner's options for it."""

    name: str
    options: Sequence[str]
    listener: str


FRONTS = (
    Front("clear", ["--strict"], 'role = "hybrid"\nauth = "users"\n'),
    Front("tls", ["--tls", "--strict"], 'role = "hybrid"\nauth = "users"\ntls = "implicit"\n'),
    Front("submission", ["--submission"], 'role = "outbound"\nauth = "users"\n'),
    Front("lmtp", ["--lmtp", "--strict"], 'role = "hybrid"\nprotocol = "lmtp"\nauth = "users"\n'),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--front", action="append", default=[])
    arguments = parser.parse_args()
    with folder("conformance") as directory:
        ports = {front.name: free_port() for front in FRONTS}
        sink = free_port()
        gateway = Gateway(directory / "gateway", _configuration(directory, ports, sink), [ports["clear"]])
        with gateway:
            bad = [
                line
                for front in FRONTS
                if front.name in arguments.front or not arguments.front
                for line in _run(front, arguments.folder, arguments.only, ports[front.name], sink, directory)
            ]
            log = gateway.log.read_text(errors="replace")
            if "Traceback" in log:
                bad.append(f"the gateway logged an exception:\n{log[-4000:]}")
    print("\n".join(bad) or "every case passed, but for the exceptions that have a reason")
    return 1 if bad else 0


def _run(front: Front, cases: Path, only: str, port: int, sink: int, directory: Path) -> list[str]:
    result = directory / f"{front.name}.json"
    command = [sys.executable, str(cases / "run_smtp_cases.py"), f"127.0.0.1:{port}", *front.options]
    command += ["--auth", f"{USER}:{PASSWORD}", "--sink", f"127.0.0.1:{sink}", "--json", str(result), "--only", only]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)  # noqa: S603  our own
    if not result.exists():
        return [f"{front.name}: the runner ended with {ran.returncode}: {ran.stdout[-1000:]}{ran.stderr[-1000:]}"]
    cases_of = json.loads(result.read_text())
    counts = {word: sum(one["result"] == word for one in cases_of) for word in ("pass", "fail", "skip")}
    print(f"{front.name}: {counts['pass']} passed, {counts['fail']} failed, {counts['skip']} skipped")
    bad = []
    for one in cases_of:
        if one["result"] != "fail":
            continue
        reason = _excuse(front.name, one["name"])
        line = f"{front.name}: {one['level']} {one['name']} [{one['rfc']}]: {one['why']}"
        if reason:
            print(f"  {line}\n    {reason}")
        else:
            bad.append("\n    ".join([line, *one["log"]]))
    return bad


def _excuse(front: str, name: str) -> str:
    for pattern, (fronts, reason) in EXCEPTIONS.items():
        if re.fullmatch(pattern, name) and re.fullmatch(fronts, front):
            return reason
    return ""


def _configuration(directory: Path, ports: dict[str, int], sink: int) -> str:
    users = directory / "users"
    users.write_text(f"{USER}:{make_forms(PASSWORD)}\n")
    users.chmod(0o600)
    certificate = directory / "server.pem"
    certificate.write_bytes(issue(authority(), "mx.example.com").pem)
    text = f"""
[gateway]
hostname = "mx.example.com"
state_dir = "state"

[tls]
certificate = "{certificate}"

[auth.users]
kind = "file"
path = "{users}"

[domains."example.com"]
route = "inside"
recipients = "known"

[recipients.known]
kind = "list"
addresses = ["user@example.com", "user2@example.com", "user3@example.com"]

[routes.inside]
transport = "smtp"
hosts = ["127.0.0.1:{sink}"]

[routing]
default = "inside"

[pipelines.plain]
filters = ["recipients", "headers"]
"""
    for front in FRONTS:
        text += f"""
[[listeners]]
name = "{front.name}"
endpoints = ["tcp:{ports[front.name]}:interface=127.0.0.1"]
pipeline = "plain"
max_message_size = "1500KiB"
max_errors = 60
max_auth_failures = 20
max_auth_failures_per_client = 1000
max_connections_per_client = 1000
{front.listener}
"""
    return text


if __name__ == "__main__":
    sys.exit(main())
