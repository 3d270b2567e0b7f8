"""DKIM signatures (RFC 6376, RFC 8301, RFC 8463): how they are read, verified and made."""
