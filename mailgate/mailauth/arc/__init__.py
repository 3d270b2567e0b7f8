"""The Authenticated Received Chain (RFC 8617): reading the sets of a message, validating them, and adding one."""
