"""The bench: the same work through mailgate, Postfix and Haraka, side by side in one run."""
