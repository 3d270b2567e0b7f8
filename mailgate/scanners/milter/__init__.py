"""The client of milters, version 2 to 6 of their protocol: the side of the mail server."""
