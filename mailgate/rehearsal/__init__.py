"""Mail that has been, judged again: what would be decided of it, and where that differs."""
