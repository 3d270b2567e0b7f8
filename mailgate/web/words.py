"""What an administrator is shown of a message, in words."""

from __future__ import annotations

from mailgate.message import AddHeader, Edit, RemoveHeader, RenameHeader

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
