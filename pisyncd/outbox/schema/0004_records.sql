-- This device's own copy of records, shared with the cloud, and what was decided about them.

CREATE TABLE records (
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    state TEXT NOT NULL CHECK (json_valid(state)),          -- pisyncd.core.record.State
    fields TEXT NOT NULL CHECK (json_valid(fields)),        -- what it shows
    deleted INTEGER NOT NULL CHECK (deleted IN (0, 1)),
    conflicted INTEGER NOT NULL CHECK (conflicted IN (0, 1)),   -- a person has to decide
    -- the last message that told the cloud of a write here, until it is acknowledged; a refused one stays
    message_id TEXT,
    updated_wall_ms INTEGER NOT NULL,
    synced_wall_ms INTEGER,
    pass INTEGER NOT NULL DEFAULT 0,                        -- of which full fetch it was part; -1: gone once nothing waits
    joined INTEGER NOT NULL DEFAULT -1,                     -- in which full fetch the cloud's copy was joined last
    PRIMARY KEY (type, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX records_pass ON records (pass, deleted);
CREATE INDEX records_waiting ON records (message_id) WHERE message_id IS NOT NULL;
CREATE INDEX records_conflicted ON records (conflicted) WHERE conflicted = 1;

-- What was decided when this device reconciled, newest last.
CREATE TABLE decisions (
    ord INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL,
    record_id TEXT NOT NULL,
    body TEXT NOT NULL CHECK (json_valid(body)),            -- pisyncd.core.merge.Decision
    wall_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX decisions_record ON decisions (type, record_id, ord);
