"""The `twistd mailgate` command. Imported by every `twistd --help`: nothing heavier belongs here."""

from twisted.application.service import ServiceMaker

mailgate = ServiceMaker("mailgate", "mailgate.start", "A mail gateway that people program in Python.", "mailgate")
