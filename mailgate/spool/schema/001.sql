-- Messages that whoever accepted them is still delivering for the first time. Most mail lives and dies here: one row
-- in, one row out. A row moves to `messages` and `recipients` at its first deferral, or at the next start.
CREATE TABLE fresh (
    id INTEGER PRIMARY KEY,
    envelope TEXT NOT NULL,     -- JSON, see mailgate.spool.codec
    content BLOB                -- NULL: a file named by the queue id
);

CREATE TABLE messages (
    queue_id TEXT PRIMARY KEY,
    sender TEXT NOT NULL,
    received REAL NOT NULL,
    size INTEGER NOT NULL,
    envelope TEXT NOT NULL,
    content BLOB
);

CREATE TABLE recipients (
    queue_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    address TEXT NOT NULL,      -- lower case, for selection
    domain TEXT NOT NULL,
    route TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'leased', 'held', 'quarantined')),
    hold INTEGER NOT NULL DEFAULT 0,    -- asked for while leased
    due REAL NOT NULL,          -- queued: the next attempt; leased: the end of the lease
    attempts INTEGER NOT NULL DEFAULT 0,
    last_reply TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (queue_id, number)
) WITHOUT ROWID;

CREATE INDEX recipients_due ON recipients (state, due);
CREATE INDEX recipients_domain ON recipients (domain);
CREATE INDEX recipients_address ON recipients (address);
CREATE INDEX messages_sender ON messages (sender);
