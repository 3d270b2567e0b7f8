"""What runs in a worker process: it reads questions, answers them one after another, and ends with its input.

It has no network to speak to, may write no file and start no program, and gives itself limits of memory and of CPU time
that the kernel keeps. Started as `python -m mailgate.content.inside MEMORY CPU` (octets, seconds a question).
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import BinaryIO, Protocol

import msgspec

from mailgate.content.frames import frame
from mailgate.content.models import Examination, Problem, Question
from mailgate.process import allow_cpu, confine

__all__ = ["main", "serve"]


class _Answers(Protocol):
    def answer(self, question: Question) -> Examination: ...


def serve(questions: BinaryIO, answers: BinaryIO, examiner: _Answers, cpu: int = 0) -> None:
    """Answer until the questions end. An error of the examination is an answer too; one of the pipes is not."""
    decoder = msgspec.msgpack.Decoder(Question)
    encoder = msgspec.msgpack.Encoder()
    while len(length := _exactly(questions, 4)) == 4:
        data = _exactly(questions, int.from_bytes(length, "big"))
        if cpu:
            allow_cpu(cpu)
        try:
            found = examiner.answer(decoder.decode(data))
        except MemoryError:
            found = Examination(failure=Problem("memory"))
        except Exception as error:  # whatever hostile octets may lead a library to
            found = Examination(failure=Problem("error", f"{type(error).__name__}: {error}"[:200]))
        try:
            answer = encoder.encode(found)
        except (UnicodeError, MemoryError):  # half a character in a name
            answer = encoder.encode(Examination(failure=Problem("error", "what was found cannot be told")))
        answers.write(frame(answer))
        answers.flush()


def main() -> None:
    """The process."""
    memory, cpu = int(sys.argv[1]), int(sys.argv[2])
    # Standard output is for answers; what a library prints must not get between them.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    from mailgate.content.examine import Examiner  # loads native libraries

    examiner = Examiner()
    confine(memory)
    answers.write(frame(b""))
    answers.flush()
    with contextlib.suppress(KeyboardInterrupt):
        serve(sys.stdin.buffer, answers, examiner, cpu)


def _exactly(source: BinaryIO, size: int) -> bytes:
    return source.read(size) if size else b""


if __name__ == "__main__":
    main()
