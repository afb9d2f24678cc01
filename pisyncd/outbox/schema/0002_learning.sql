-- Learning events: what was taken in, the sessions kept here, the files of the spool directory.

-- What waits is counted per stream without reading the messages: last_seq less the first that is still there.
ALTER TABLE streams ADD COLUMN priority INTEGER NOT NULL DEFAULT 5;  -- 11: losses, before all else
ALTER TABLE streams ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;     -- of the bodies that wait
UPDATE streams SET
    priority = CASE WHEN stream GLOB 'loss-*' THEN 11 WHEN stream GLOB 'sync-*' THEN 7 ELSE 5 END,
    bytes = (SELECT coalesce(sum(length(body)), 0) FROM messages WHERE messages.stream = streams.stream);
CREATE INDEX streams_by_turn ON streams (priority DESC, stream);

CREATE TRIGGER messages_added AFTER INSERT ON messages
BEGIN
    UPDATE streams SET bytes = bytes + length(NEW.body) WHERE stream = NEW.stream;
END;
CREATE TRIGGER messages_removed AFTER DELETE ON messages
BEGIN
    UPDATE streams SET bytes = bytes - length(OLD.body) WHERE stream = OLD.stream;
END;
CREATE TRIGGER messages_changed AFTER UPDATE OF stream, body ON messages
BEGIN
    UPDATE streams SET bytes = bytes - length(OLD.body) WHERE stream = OLD.stream;
    UPDATE streams SET bytes = bytes + length(NEW.body) WHERE stream = NEW.stream;
END;

-- The newest events that were taken in, so that one that comes again is answered as the first time.
CREATE TABLE taken (
    ord INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE CHECK (length(key) = 16),     -- of whose id it is, and of the id
    digest BLOB NOT NULL CHECK (length(digest) = 16),      -- of the content
    wall_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    mode TEXT NOT NULL,
    filters TEXT NOT NULL CHECK (json_valid(filters)),
    question_ids TEXT NOT NULL CHECK (json_valid(question_ids)),
    state TEXT NOT NULL CHECK (state IN ('active', 'submitted', 'expired')),
    rev INTEGER NOT NULL CHECK (rev > 0),
    -- outbox time: no clock step ends a session
    due_at_ms INTEGER,
    changed_at_ms INTEGER NOT NULL,
    created_wall_ms INTEGER NOT NULL,
    expires_wall_ms INTEGER,
    ended_wall_ms INTEGER,
    updated_wall_ms INTEGER NOT NULL,
    CHECK ((state = 'active') = (ended_wall_ms IS NULL)),
    CHECK ((due_at_ms IS NULL) = (expires_wall_ms IS NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_due ON sessions (due_at_ms) WHERE state = 'active' AND due_at_ms IS NOT NULL;
CREATE INDEX sessions_ended ON sessions (changed_at_ms) WHERE state <> 'active';

CREATE TABLE answers (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    question_id TEXT NOT NULL,
    position INTEGER NOT NULL CHECK (position >= 0),
    selected_index INTEGER,
    marked INTEGER NOT NULL CHECK (marked IN (0, 1)),
    rev INTEGER NOT NULL CHECK (rev > 0),
    answered_wall_ms INTEGER NOT NULL,
    PRIMARY KEY (session_id, question_id)
) STRICT, WITHOUT ROWID;

-- How far a file of the spool directory is taken in; committed with its lines.
CREATE TABLE spooled (
    name BLOB PRIMARY KEY,
    inode INTEGER NOT NULL,
    base BLOB NOT NULL CHECK (length(base) = 16),          -- of the whole content when it was first seen
    tail BLOB NOT NULL CHECK (length(tail) = 16),          -- of the last bytes before offset
    size INTEGER NOT NULL,
    offset INTEGER NOT NULL CHECK (offset >= 0),
    lines INTEGER NOT NULL CHECK (lines >= 0),
    refused INTEGER NOT NULL CHECK (refused BETWEEN 0 AND lines),
    refused_bytes INTEGER NOT NULL,                        -- of the file with the refused lines
    reasons_bytes INTEGER NOT NULL,                        -- of the file with the reasons
    first_reason TEXT NOT NULL,
    done INTEGER NOT NULL CHECK (done IN (0, 1))
) STRICT, WITHOUT ROWID;
