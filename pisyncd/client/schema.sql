CREATE TABLE events (
    n INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice: an answer about a dropped event must not hit a new one
    id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('learning', 'track')),
    rank INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    seq INTEGER,
    body TEXT NOT NULL,
    bytes INTEGER NOT NULL
);
CREATE INDEX events_by_rank ON events (rank, n);

-- captured = sent + failed + dropped + pending, at every moment and after any crash.
CREATE TABLE totals (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    captured INTEGER NOT NULL DEFAULT 0,
    sent INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    dropped INTEGER NOT NULL DEFAULT 0,
    pending INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0
);
INSERT INTO totals (one) VALUES (1);

CREATE TRIGGER event_added AFTER INSERT ON events BEGIN
    UPDATE totals SET pending = pending + 1, bytes = bytes + NEW.bytes;
END;
CREATE TRIGGER event_gone AFTER DELETE ON events BEGIN
    UPDATE totals SET pending = pending - 1, bytes = bytes - OLD.bytes;
END;

CREATE TABLE sessions (
    session_id TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    touched_n INTEGER NOT NULL
) WITHOUT ROWID;

-- What was refused for good. `body` is NULL for what could not be made into an event.
CREATE TABLE failed (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    kind TEXT NOT NULL,
    rank INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    seq INTEGER,
    body TEXT,
    bytes INTEGER NOT NULL,
    code TEXT NOT NULL,
    detail TEXT NOT NULL,
    at TEXT NOT NULL
);
