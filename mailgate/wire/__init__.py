"""SMTP and LMTP as bytes, in both directions, without I/O."""
