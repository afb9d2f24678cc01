-- What this device owes the cloud. Columns in *_at_ms are outbox time: the milliseconds this device has been on,
-- counted on across restarts (see db.py); *_wall_ms are labels from the system clock.

CREATE TABLE cursors (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE transfers (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('file', 'bundle')),
    -- NULL: the bytes are read from the source itself
    spool TEXT,
    length INTEGER NOT NULL CHECK (length >= 0),
    offset INTEGER NOT NULL DEFAULT 0 CHECK (offset BETWEEN 0 AND length),
    sha256 BLOB NOT NULL CHECK (length(sha256) = 32),
    priority INTEGER NOT NULL CHECK (priority BETWEEN 1 AND 10),
    url TEXT,
    mismatches INTEGER NOT NULL DEFAULT 0 CHECK (mismatches >= 0),
    created_at_ms INTEGER NOT NULL,
    created_wall_ms INTEGER NOT NULL,
    CHECK (kind = 'file' OR spool IS NOT NULL)
) STRICT;

-- One row per version of a path.
CREATE TABLE files (
    id INTEGER PRIMARY KEY,
    root TEXT NOT NULL,
    path BLOB NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('file', 'sqlite')),
    size INTEGER NOT NULL CHECK (size >= 0),
    mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    priority INTEGER NOT NULL CHECK (priority BETWEEN 1 AND 10),
    state TEXT NOT NULL CHECK (state IN ('pending', 'uploading', 'complete', 'failed', 'superseded')),
    sha256 BLOB CHECK (length(sha256) = 32),
    transfer_id INTEGER REFERENCES transfers (id),
    attempts INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    due_at_ms INTEGER NOT NULL DEFAULT 0,
    error_code TEXT,
    error_detail TEXT,
    error_hint TEXT,
    queued_at_ms INTEGER NOT NULL,
    queued_wall_ms INTEGER NOT NULL,
    completed_wall_ms INTEGER,
    CHECK ((state = 'complete') = (completed_wall_ms IS NOT NULL)),
    CHECK (state <> 'complete' OR sha256 IS NOT NULL),
    CHECK (state <> 'uploading' OR (transfer_id IS NOT NULL AND sha256 IS NOT NULL)),
    -- a superseded version keeps its transfer until that has ended, so that a newer one cannot overtake it
    CHECK (state IN ('uploading', 'superseded') OR transfer_id IS NULL),
    CHECK (state <> 'failed' OR error_code IS NOT NULL)
) STRICT;

CREATE INDEX files_by_path ON files (root, path, id);
CREATE UNIQUE INDEX files_pending_once ON files (root, path) WHERE state = 'pending';
CREATE INDEX files_by_turn ON files (priority DESC, id) WHERE state = 'pending';
CREATE INDEX files_by_transfer ON files (transfer_id) WHERE transfer_id IS NOT NULL;
CREATE INDEX files_failed ON files (id) WHERE state = 'failed';
CREATE INDEX files_superseded ON files (id) WHERE state = 'superseded';

-- Content that the cloud has from this device: it is sent by name.
CREATE TABLE contents (
    sha256 BLOB PRIMARY KEY CHECK (length(sha256) = 32)
) STRICT, WITHOUT ROWID;

CREATE TABLE streams (
    stream TEXT PRIMARY KEY,
    last_seq INTEGER NOT NULL DEFAULT 0,
    accepted_seq INTEGER NOT NULL DEFAULT 0,
    CHECK (accepted_seq BETWEEN 0 AND last_seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE messages (
    stream TEXT NOT NULL REFERENCES streams (stream),
    seq INTEGER NOT NULL CHECK (seq > 0),
    id TEXT NOT NULL UNIQUE,
    item_type TEXT NOT NULL,
    body TEXT NOT NULL CHECK (json_valid(body)),
    priority INTEGER NOT NULL CHECK (priority BETWEEN 1 AND 10),
    boot_id TEXT NOT NULL,
    boottime_ms INTEGER NOT NULL,
    wall_ms INTEGER NOT NULL,
    clock_trusted INTEGER NOT NULL CHECK (clock_trusted IN (0, 1)),
    queued_at_ms INTEGER NOT NULL,
    PRIMARY KEY (stream, seq)
) STRICT, WITHOUT ROWID;

-- What was set aside, refused, evicted or salvaged. Each entry is also a message of the stream `loss`.
CREATE TABLE ledger (
    id INTEGER PRIMARY KEY,
    what TEXT NOT NULL,
    reason TEXT NOT NULL,
    count INTEGER NOT NULL CHECK (count >= 0),
    bytes INTEGER NOT NULL CHECK (bytes >= 0),
    detail TEXT NOT NULL,
    wall_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE cycles (
    id INTEGER PRIMARY KEY,
    event_id TEXT UNIQUE,
    outcome TEXT NOT NULL CHECK (outcome IN ('success', 'partial', 'failed', 'offline', 'idle')),
    attempted INTEGER NOT NULL CHECK (attempted >= 0),
    files_synced INTEGER NOT NULL CHECK (files_synced >= 0),
    errors INTEGER NOT NULL CHECK (errors >= 0),
    bytes_sent INTEGER NOT NULL CHECK (bytes_sent >= 0),
    speed_mbps REAL,
    duration_ms INTEGER NOT NULL,
    error_code TEXT,
    ended_wall_ms INTEGER NOT NULL,
    clock_trusted INTEGER NOT NULL CHECK (clock_trusted IN (0, 1))
) STRICT;

CREATE TABLE breakers (
    destination TEXT PRIMARY KEY,
    failures INTEGER NOT NULL CHECK (failures >= 0),
    due_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What was learned of each network: the chunk that took about the aimed time.
CREATE TABLE networks (
    name TEXT PRIMARY KEY,
    chunk_bytes INTEGER NOT NULL CHECK (chunk_bytes > 0),
    goodput_bps REAL,
    seen_wall_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
