"""What runs in a process that reads calls: one call after another, each with what is asked of its messages.

It ends with its input, or when nobody has asked for a while. It may write no file and start no program, and gives
itself limits of memory and of CPU time that the kernel keeps. Started as
`python -m mailgate.web.injection.apart.inside MEMORY CPU` (octets, seconds a question).
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import BinaryIO

import msgspec

from mailgate.config.injection import InjectionSection
from mailgate.process import allow_cpu, confine
from mailgate.web.injection.apart.talk import (
    Answer,
    Ask,
    Drafted,
    GoneError,
    Head,
    Outline,
    as_refused,
    octets,
    say,
    take,
)
from mailgate.web.injection.composing import Draft
from mailgate.web.injection.problems import CallError
from mailgate.web.injection.reading import Asked, IMessages, read_call

__all__ = ["OUT_OF_MEMORY", "main", "serve"]

#: How the process ends that has no more memory.
OUT_OF_MEMORY = 77
#: Seconds after which a process that has nothing to do ends.
_IDLE = 60

_Found = Sequence[Draft | tuple[int, CallError]]


def serve(source: BinaryIO, sink: BinaryIO, *, cpu: int = 0, idle: int = 0) -> None:
    """Answer until the questions end. `cpu` is seconds for each, and `idle` those after which the process is ended in
    which nothing was asked and no call waits; 0 for no limit."""
    decoder: msgspec.msgpack.Decoder[Head | Ask] = msgspec.msgpack.Decoder(Head | Ask)
    messages: IMessages | None = None
    while True:
        signal.alarm(0 if messages is not None else idle)
        question = take(source, decoder)
        if question is None:
            return
        content = octets(source, question.size) if isinstance(question, Head) else b""
        signal.alarm(0)
        if cpu:
            allow_cpu(cpu)
        found: _Found = ()
        try:
            if isinstance(question, Head):
                answer, messages, found = _read(question, content)
                del content
            elif question.stop:
                found = messages.drafts(question.start, question.stop) if messages is not None else ()
                answer = Answer(drafts=_drafted(found))
            else:
                messages = None
                continue
        except CallError as error:
            answer, messages, found = Answer(refused=as_refused(error)), None, ()
        except MemoryError:
            raise  # with what is left of it nothing should be begun
        except Exception:
            answer, messages, found = Answer(broken=traceback.format_exc()[-3000:]), None, ()
        _tell(sink, answer, found)
        del found


def main() -> None:
    """The process."""
    memory, cpu = int(sys.argv[1]), int(sys.argv[2])
    # Standard output is for answers; what a library prints must not get between them.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the gateway ends us when it is ready for it
    confine(memory)
    try:
        serve(sys.stdin.buffer, answers, cpu=cpu, idle=_IDLE)
    except GoneError:
        os._exit(0)  # nobody is there to whom the rest could be written
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


def _read(head: Head, content: bytes) -> tuple[Answer, IMessages | None, _Found]:
    section = InjectionSection.model_construct(**head.section)
    call = read_call(Asked(content, head.kind, head.query, head.fields), section, head.hostname, head.now)
    first = call.messages.drafts(0, 1)
    outline = Outline(call.count, call.digest, call.key, call.stream, call.tags, call.is_list)
    # Who has the only message needs nothing more of it.
    return Answer(call=outline, drafts=_drafted(first)), call.messages if call.count > 1 else None, first


def _drafted(found: _Found) -> tuple[Drafted, ...]:
    return tuple(
        Drafted(one.number, msgspec.structs.replace(one, content=b""), len(one.content))
        if isinstance(one, Draft)
        else Drafted(one[0], refused=as_refused(one[1]))
        for one in found
    )


def _tell(sink: BinaryIO, answer: Answer, found: _Found) -> None:
    contents = [one.content for one in found if isinstance(one, Draft)]
    try:
        say(sink, answer, *contents)
    except UnicodeError:  # half a character that a fault repeats
        say(sink, Answer(broken="what was found cannot be told"))


if __name__ == "__main__":
    main()
