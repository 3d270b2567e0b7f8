"""The built-in filters, one a module: each has its `Options` and `build(options, services)`."""
