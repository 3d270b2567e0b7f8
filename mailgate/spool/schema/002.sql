-- Mail that is late, and mail that is to wait.
ALTER TABLE recipients ADD COLUMN warned INTEGER NOT NULL DEFAULT 0;    -- the sender has been told that it is late
ALTER TABLE recipients ADD COLUMN not_before REAL NOT NULL DEFAULT 0;   -- no attempt earlier, whoever asks (RFC 4865)
