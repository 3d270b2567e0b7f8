"""A queue of a million recipients: what it costs to start with it, to look at it, and to work on it."""
