"""The filters of a listener: how they are found, put together, and asked."""
