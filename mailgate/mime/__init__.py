"""The structure of messages (RFC 2045, RFC 2046), and converting them for systems that cannot take them as they are."""
