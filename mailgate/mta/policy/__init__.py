"""The policy service that Postfix asks before the content."""
