"""DMARC: whose domain a message bears, what its owner asks for, and reports about it (RFC 9989, RFC 9990)."""
