"""The spool: what is durable, from the 250 to the last recipient's outcome."""
