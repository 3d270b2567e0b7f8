-- Turns at destinations, several workers, what is known of an attempt; suspensions and counters.
CREATE TABLE entries (
    queue_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    address TEXT NOT NULL,      -- lower case, for selection
    domain TEXT NOT NULL,
    route TEXT NOT NULL,        -- where it goes: this, and not the envelope, says so
    state TEXT NOT NULL CHECK (state IN ('queued', 'turn', 'leased', 'held', 'quarantined')),
    hold INTEGER NOT NULL DEFAULT 0,    -- leased: what the end of the lease brings back: 1 held, 2 quarantined
    due REAL NOT NULL,          -- queued: the next attempt; turn: when it is looked at though nobody called; leased: the end
    attempts INTEGER NOT NULL DEFAULT 0,
    last_reply TEXT NOT NULL DEFAULT '',
    warned INTEGER NOT NULL DEFAULT 0,    -- the sender has been told that it is late
    not_before REAL NOT NULL DEFAULT 0,   -- no attempt earlier, whoever asks (RFC 4865)
    site TEXT NOT NULL DEFAULT '',        -- of the last attempt, as source and category are
    source TEXT NOT NULL DEFAULT '',
    category TEXT NOT NULL DEFAULT '',
    waits TEXT NOT NULL DEFAULT '',       -- why, other than for the next attempt; '' in a turn: for that
    turn REAL NOT NULL DEFAULT 0,         -- its place among those that wait at one destination
    priority INTEGER NOT NULL DEFAULT 0,  -- of the message (RFC 6710)
    owner INTEGER NOT NULL DEFAULT 0,     -- leased: the worker that has it
    PRIMARY KEY (queue_id, number)
) WITHOUT ROWID;

INSERT INTO entries
    (queue_id, number, address, domain, route, state, hold, due, attempts, last_reply, warned, not_before)
    SELECT queue_id, number, address, domain, route, state, hold, due, attempts, last_reply, warned, not_before
    FROM recipients ORDER BY queue_id, number;

UPDATE entries SET priority = (
        SELECT CAST(json_extract(envelope, '$.mail.priority') AS INTEGER) FROM messages
        WHERE messages.queue_id = entries.queue_id)
    WHERE queue_id IN (
        SELECT queue_id FROM messages WHERE CASE
            WHEN typeof(envelope) != 'text' OR instr(envelope, '"priority":') = 0 THEN 0
            WHEN NOT json_valid(envelope) THEN 0
            ELSE json_type(envelope, '$.mail.priority') = 'integer' END);

DROP TABLE recipients;
ALTER TABLE entries RENAME TO recipients;

CREATE INDEX recipients_due ON recipients (state, due);
-- With source and state, so that those of a source that is full are passed over without a look at their rows.
CREATE INDEX recipients_turn ON recipients (route, domain, priority DESC, turn, source, state) WHERE state = 'turn';
CREATE INDEX recipients_turn_by_route ON recipients (route, priority DESC, turn, source, state) WHERE state = 'turn';
CREATE INDEX recipients_domain ON recipients (domain);
CREATE INDEX recipients_address ON recipients (address);
CREATE INDEX recipients_site ON recipients (site) WHERE site != '';
CREATE INDEX recipients_suspended ON recipients (waits) WHERE waits >= 'suspended:' AND waits < 'suspended;';

DROP INDEX messages_sender;
CREATE INDEX messages_sender ON messages (sender, queue_id);
CREATE INDEX messages_received ON messages (received, queue_id);

CREATE TABLE suspensions (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    since REAL NOT NULL,
    until REAL NOT NULL,        -- 0: until somebody ends it
    reason TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID;

-- Numbers that outlive us, by keys that begin with their day.
CREATE TABLE counts (
    key TEXT PRIMARY KEY,
    amount INTEGER NOT NULL
) WITHOUT ROWID;
