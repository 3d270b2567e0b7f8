"""The codes and bits of the milter protocol (libmilter's mfdef.h and mfapi.h), by names of ours."""

from __future__ import annotations

import enum

__all__ = ["STEP_BITS", "Actions", "Code", "MacroStage", "Plain", "Steps"]


class Code(bytes, enum.Enum):
    """The codes of what the mail server says."""

    OPTIONS = b"O"
    MACROS = b"D"
    CONNECT = b"C"
    HELO = b"H"
    MAIL = b"M"
    RCPT = b"R"
    DATA = b"T"
    HEADER = b"L"
    END_OF_HEADER = b"N"
    BODY = b"B"
    END_OF_BODY = b"E"
    ABORT = b"A"
    QUIT = b"Q"
    QUIT_NEW = b"K"
    UNKNOWN = b"U"


class Actions(enum.IntFlag):
    """What a milter may do to a message (SMFIF_*)."""

    ADD_HEADERS = 0x1
    CHANGE_BODY = 0x2
    ADD_RECIPIENTS = 0x4
    REMOVE_RECIPIENTS = 0x8
    CHANGE_HEADERS = 0x10
    QUARANTINE = 0x20
    CHANGE_SENDER = 0x40
    ADD_RECIPIENTS_WITH_PARAMETERS = 0x80
    CHOOSE_MACROS = 0x100


class Steps(enum.IntFlag):
    """What is left out, or done in another way (SMFIP_*): NO_ is not sent, QUIET_ is not answered."""

    NO_CONNECT = 0x1
    NO_HELO = 0x2
    NO_MAIL = 0x4
    NO_RCPT = 0x8
    NO_BODY = 0x10
    NO_HEADERS = 0x20
    NO_END_OF_HEADER = 0x40
    QUIET_HEADERS = 0x80
    NO_UNKNOWN = 0x100
    NO_DATA = 0x200
    SKIP = 0x400
    REFUSED_RECIPIENTS = 0x800
    QUIET_CONNECT = 0x1000
    QUIET_HELO = 0x2000
    QUIET_MAIL = 0x4000
    QUIET_RCPT = 0x8000
    QUIET_DATA = 0x10000
    QUIET_UNKNOWN = 0x20000
    QUIET_END_OF_HEADER = 0x40000
    QUIET_BODY = 0x80000
    LEADING_SPACE = 0x100000
    DATA_256K = 0x10000000
    DATA_1M = 0x20000000


class MacroStage(enum.IntEnum):
    """The stages for which a milter may choose its macros (SMFIM_*)."""

    CONNECT = 0
    HELO = 1
    MAIL = 2
    RCPT = 3
    DATA = 4
    END_OF_BODY = 5
    END_OF_HEADER = 6


class Plain(bytes, enum.Enum):
    """Answers without data."""

    CONTINUE = b"c"
    ACCEPT = b"a"
    REJECT = b"r"
    TEMPFAIL = b"t"
    DISCARD = b"d"
    SHUTDOWN = b"4"
    CONNECTION_FAILURE = b"f"
    PROGRESS = b"p"
    SKIP = b"s"


#: How a step is left out, and how it is not answered.
STEP_BITS: dict[Code, tuple[Steps, Steps]] = {
    Code.CONNECT: (Steps.NO_CONNECT, Steps.QUIET_CONNECT),
    Code.HELO: (Steps.NO_HELO, Steps.QUIET_HELO),
    Code.MAIL: (Steps.NO_MAIL, Steps.QUIET_MAIL),
    Code.RCPT: (Steps.NO_RCPT, Steps.QUIET_RCPT),
    Code.DATA: (Steps.NO_DATA, Steps.QUIET_DATA),
    Code.HEADER: (Steps.NO_HEADERS, Steps.QUIET_HEADERS),
    Code.END_OF_HEADER: (Steps.NO_END_OF_HEADER, Steps.QUIET_END_OF_HEADER),
    Code.BODY: (Steps.NO_BODY, Steps.QUIET_BODY),
    Code.END_OF_BODY: (Steps(0), Steps(0)),
    Code.UNKNOWN: (Steps.NO_UNKNOWN, Steps.QUIET_UNKNOWN),
}
