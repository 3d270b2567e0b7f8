"""The `twistd mailgate` command. Imported by every `twistd --help`: nothing heavier belongs here."""

from twisted.application.service import ServiceMaker

mailgate = ServiceMaker(  # type: ignore[no-untyped-call]
    "mailgate", "mailgate.service", "A mail gateway that people program in Python.", "mailgate"
)
