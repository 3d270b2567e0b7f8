"""Clients of the systems that know users and recipients: directories (LDAP), databases (SQL), services (HTTP)."""
