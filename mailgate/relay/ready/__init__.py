"""Ready queues: what waits for one site from one source, and the connections to it."""
