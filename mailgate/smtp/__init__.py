"""The server's session: SMTP and LMTP on Twisted's ESMTP."""
