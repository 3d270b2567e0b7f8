"""Several processes that are one gateway: what starts them, what they share, and the line between them."""
