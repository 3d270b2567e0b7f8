"""What becomes of mail in quarantine while it waits there: originals, asking filters again, retention."""
