"""What the gateway knows beside its configuration: counters, lists in files, domains and recipients."""
