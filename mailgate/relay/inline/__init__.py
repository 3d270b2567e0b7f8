"""Inline delivery: the next hop is asked while the client waits, and its answers are the client's."""
