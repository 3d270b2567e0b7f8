"""Our tables, for a mail server that looks things up."""
