"""What an administrator is shown of edits, in words."""

from __future__ import annotations

from mailgate.message.edits import (
    AddHeader,
    AddRecipient,
    ChangeReturnPath,
    ChangeSender,
    Edit,
    RemoveHeader,
    RemoveRecipient,
    RenameHeader,
    ReplaceBody,
    Splice,
)

__all__ = ["described"]


def described(edit: Edit) -> str:
    """An edit in words."""
    match edit:
        case AddHeader(name, value, at_end):
            return f"add at the {'end' if at_end else 'top'}: {name}: {' '.join(value.split())}"
        case RemoveHeader(name, None):
            return f"remove every {name}"
        case RemoveHeader(name, value):
            return f"remove {name}: {value}"
        case RenameHeader(name, to):
            return f"rename {name} to {to}"
        case Splice(start, end, data, note):
            what = f"insert {len(data)} octets at" if start == end else f"put {len(data)} octets for {end - start} at"
            return f"{what} {start} of the content{_noted(note)}"
        case ReplaceBody(content, _, note):
            return f"replace the body by one of {content.size} octets{_noted(note)}"
        case AddRecipient(address):
            return f"add the recipient {address}"
        case RemoveRecipient(address):
            return f"remove the recipient {address}"
        case ChangeSender(address):
            return f"change the sender to <{address}>"
        case ChangeReturnPath(address, recipients):
            whom = f" of mail to {', '.join(map(str, recipients))}" if recipients else ""
            return f"change the return path{whom} to <{address}>"


def _noted(note: str) -> str:
    return f": {note}" if note else ""
