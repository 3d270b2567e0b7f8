"""Which of our recipients exist: lists, and the systems that are asked."""
