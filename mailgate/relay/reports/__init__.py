"""Reports to senders: composed from fields for programs and text for people."""
