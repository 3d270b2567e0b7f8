"""The configuration: TOML to frozen, checked sections."""
