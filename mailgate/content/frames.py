"""How the gateway and its worker processes talk: a length of four octets, big-endian, and a value in MessagePack."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["FrameError", "Frames", "frame"]


class FrameError(ValueError):
    """What came is no frame."""


def frame(data: bytes) -> bytes:
    """The octets as one frame."""
    return len(data).to_bytes(4, "big") + data


class Frames:
    """Takes octets in any pieces, and gives what is whole."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that these octets complete; FrameError for one that is too long."""
        self._buffer += data
        while len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "big")
            if length > self._longest:
                raise FrameError(f"a frame of {length} octets")
            if len(self._buffer) < 4 + length:
                return
            whole = bytes(self._buffer[4 : 4 + length])
            del self._buffer[: 4 + length]
            yield whole
