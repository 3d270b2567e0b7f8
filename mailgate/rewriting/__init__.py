"""Addresses of the envelope that stand for others: aliases, and senders of mail that is forwarded."""
