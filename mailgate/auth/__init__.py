"""Who may log in: twisted.cred's portal over the checkers of the `[auth.NAME]` sections."""
