"""What a Postfix and a gateway that stand beside each other tell of the same mail."""

from __future__ import annotations

import subprocess

from parts import Gateway, Postfix, listens, program, wait_until

from mailgate.moving.postfix.reading import read_main

__all__ = ["BesidePostfix", "ListeningGateway", "settings_in"]


class ListeningGateway(Gateway):
    """One that may have ports without a banner."""

    def is_ready(self) -> bool:
        return all(listens(port) for port in self.ports)


class BesidePostfix:
    """A site with both of them."""

    postfix: Postfix
    gateway: Gateway

    def log_line(self, *texts: str) -> str:
        """The first line of Postfix's log that has all of these, once there is one."""

        def found() -> list[str]:
            lines = self.postfix.log.read_text(errors="replace").splitlines()
            return [line for line in lines if all(text in line for text in texts)]

        wait_until(lambda: bool(found()), f"Postfix says {texts}")
        return found()[0]

    def why(self, subject: str, *texts: str) -> str:
        """What the history tells, once it has all of these texts."""
        found = ""

        def told() -> bool:
            nonlocal found
            found = self.gateway.command("why", subject, check=False).stdout
            return all(text in found for text in texts)

        wait_until(told, f"the history tells of {subject}: {texts}")
        return found

    def tool(self, name: str, *arguments: str, check: bool = True) -> str:
        """What a program of Postfix's prints."""
        command = [program(name), "-c", str(self.postfix.directory / "conf"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=check).stdout  # noqa: S603


def settings_in(text: str) -> dict[str, str]:
    """The lines of a main.cf, or of a snippet of one."""
    return {name: one.value for name, one in read_main(text).items()}
