"""A mail gateway that people program in Python."""
