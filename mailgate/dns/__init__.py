"""Names and addresses: the resolver, and the confirmed name of a client."""
