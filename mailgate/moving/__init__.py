"""Moving over from another mail server: its files are read, and made into a configuration of ours."""
