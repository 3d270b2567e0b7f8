"""The relay: what takes messages from the spool to their next hops."""
