"""HTTP: the control socket beside the daemon."""
