"""The `mailgate` command."""
