"""Becomes a command, in a session of its own and within limits: `limited.py MEMORY COMMAND ARGUMENT...`.

Run by its path in a bare interpreter: nothing of mailgate is imported. MEMORY are octets of address space. What cannot
be started ends with the status 127.
"""

import os
import resource
import sys


def main(memory: int, command: list[str]) -> None:
    """Does not return."""
    os.setsid()  # whatever the command starts can be ended with it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    try:
        os.execv(command[0], command)  # noqa: S606  the command that the administrator wants, without a shell
    except OSError as error:
        print(f"{command[0]} cannot be started: {error.strerror}", file=sys.stderr)
        raise SystemExit(127) from None


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
