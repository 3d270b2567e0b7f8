"""Services for a mail server that stays in front of us: it asks, and keeps the mail."""
