"""Sessions with next hops, by SMTP and LMTP: how they open, and one mail transaction after another."""
