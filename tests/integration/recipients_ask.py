"""A gateway that asks others for its recipients, and what it says of addresses."""

from __future__ import annotations

import json
import smtplib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configurations import configuration
from parts import Gateway, free_port

__all__ = ["NO", "PUT_OFF", "RESTRICTED", "YES", "AskingGateway"]

YES, NO, RESTRICTED, PUT_OFF = "250 2.1.5", "550 5.1.1", "550 5.7.1", "451 4.4.3"


class AskingGateway(Gateway):
    """mailgate with one domain, whose recipients `sections` know, by name, in this order. `routes` are more routes."""

    def __init__(
        self,
        directory: Path,
        domain: str,
        sections: Mapping[str, Mapping[str, Any]],
        *,
        gateway: str = "",
        routes: str = "",
    ) -> None:
        self.port = free_port()
        names = ", ".join(f'"{name}"' for name in sections)
        text = configuration(
            self.port,
            f'\n[routes.inside]\ntransport = "maildir"\npath = "mail/{{local_part}}"\n{routes}',
            domains={domain: "inside"},
            gateway=gateway,
        )
        text = text.replace('\nroute = "inside"\n', f'\nroute = "inside"\nrecipients = [{names}]\n')
        for name, section in sections.items():
            text += f"\n[recipients.{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in section.items())
        super().__init__(directory, text, [self.port])

    def says(self, *addresses: str) -> list[str]:
        """Code and status of the answer to each address."""
        with smtplib.SMTP("127.0.0.1", self.port, "client.test", timeout=60) as client:
            client.ehlo()
            client.mail("ann@client.test")
            return [_told(*client.rcpt(address)) for address in addresses]


def _told(code: int, text: bytes) -> str:
    return f"{code} {text.decode().split()[0]}"


def _toml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value if isinstance(value, int) else str(value), ensure_ascii=False)
