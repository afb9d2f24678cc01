-- Learning events, the sessions that they belong to, and the boots that give them their time.

-- Generic telemetry. dk 0: sent by a user, not by a device; user_id '': of no user in particular.
CREATE TABLE telemetry (
    ord             INTEGER PRIMARY KEY AUTOINCREMENT,            -- the order of the export
    dk              INTEGER NOT NULL,
    user_id         TEXT    NOT NULL,
    event_id        TEXT    NOT NULL,
    digest          BLOB    NOT NULL,
    event_type      TEXT    NOT NULL,
    event_data      TEXT    NOT NULL,
    client_ts_ms    INTEGER,
    batch_id        TEXT    NOT NULL,
    stream          TEXT,
    device_seq      INTEGER,
    boot_id         TEXT,
    boottime_ms     INTEGER,
    wall_ms         INTEGER,
    clock_trusted   INTEGER,
    received_at_ms  INTEGER NOT NULL
);
CREATE UNIQUE INDEX telemetry_identity ON telemetry (event_id, dk, user_id);
CREATE INDEX telemetry_received ON telemetry (received_at_ms);

INSERT INTO telemetry (
    dk, user_id, event_id, digest, event_type, event_data, batch_id, stream, device_seq, boot_id, boottime_ms,
    wall_ms, clock_trusted, received_at_ms
)
SELECT dk, '', item_id, digest, coalesce(body ->> 'eventType', 'unknown'), coalesce(body -> 'eventData', body), '',
       stream, seq, boot_id, boottime_ms, wall_ms, clock_trusted, received_at_ms
FROM message WHERE item_type = 'event' ORDER BY id;
DELETE FROM message WHERE item_type = 'event';

-- Users send messages, too.
ALTER TABLE message ADD COLUMN user_id TEXT NOT NULL DEFAULT '';
DROP INDEX message_identity;
CREATE UNIQUE INDEX message_identity ON message (dk, item_id, user_id);

-- Envelope v1. Append-only: the database itself refuses to change or delete (see the triggers below).
CREATE TABLE attempt_events (
    ord             INTEGER PRIMARY KEY AUTOINCREMENT,            -- the order of the export
    id              TEXT    NOT NULL,
    event_version   INTEGER NOT NULL,
    event_type      TEXT    NOT NULL,
    event_ts        INTEGER NOT NULL,               -- the server's time at ingest, in milliseconds
    client_ts       INTEGER,                        -- what the client said, in milliseconds
    seq             INTEGER,
    session_id      TEXT    NOT NULL,
    user_id         TEXT    NOT NULL,
    question_id     TEXT,
    source          TEXT    CHECK (source IN ('web', 'mobile', 'api')),
    payload_json    TEXT    NOT NULL,
    digest          BLOB    NOT NULL,
    dk              INTEGER NOT NULL,               -- 0: not by a device
    stream          TEXT,
    device_seq      INTEGER,
    boot_id         TEXT,
    boottime_ms     INTEGER,
    wall_ms         INTEGER,
    clock_trusted   INTEGER
);
CREATE UNIQUE INDEX attempt_events_identity ON attempt_events (id);
CREATE INDEX attempt_events_session_time ON attempt_events (session_id, event_ts);
CREATE INDEX attempt_events_user_time ON attempt_events (user_id, event_ts);
CREATE INDEX attempt_events_type_time ON attempt_events (event_type, event_ts);
CREATE INDEX attempt_events_session_seq ON attempt_events (session_id, seq);

-- Who may be forgotten now: holds a user's id only inside the transaction of a purge.
CREATE TABLE purge_permit (
    user_id         TEXT    PRIMARY KEY
);

CREATE TRIGGER attempt_events_no_update BEFORE UPDATE ON attempt_events
BEGIN SELECT RAISE(ABORT, 'attempt_events is append-only'); END;
CREATE TRIGGER attempt_events_no_delete BEFORE DELETE ON attempt_events
WHEN NOT EXISTS (SELECT 1 FROM purge_permit WHERE user_id = OLD.user_id)
BEGIN SELECT RAISE(ABORT, 'attempt_events is append-only'); END;

-- Who did what. Append-only without exception.
CREATE TABLE audit (
    id              INTEGER PRIMARY KEY,
    at_ms           INTEGER NOT NULL,
    actor           TEXT    NOT NULL,
    action          TEXT    NOT NULL,
    target          TEXT    NOT NULL,
    detail          TEXT    NOT NULL
);
CREATE INDEX audit_target ON audit (target, at_ms);
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END;

-- What is known of each boot of a device. An event's corrected time is offset + boottime_ms, offset between
-- low_ms and high_ms: told once per boot, so that no event has to be changed. See pisyncd/core/timeline.py.
CREATE TABLE boot (
    dk                INTEGER NOT NULL,
    boot_id           TEXT    NOT NULL,
    number            INTEGER NOT NULL,             -- the device's own count of its boots
    last_boottime_ms  INTEGER NOT NULL,
    cloud_low_ms      INTEGER,                      -- evidence by the cloud's own clock
    cloud_high_ms     INTEGER,
    claim_low_ms      INTEGER,                      -- evidence by the device's clock while it was trusted
    claim_high_ms     INTEGER,
    low_ms            INTEGER,                      -- the answer
    high_ms           INTEGER,
    kind              TEXT    NOT NULL DEFAULT 'open' CHECK (kind IN ('exact', 'interval', 'open')),
    contradicted      INTEGER NOT NULL DEFAULT 0,
    updated_at_ms     INTEGER NOT NULL,
    PRIMARY KEY (dk, boot_id)
) WITHOUT ROWID;
CREATE INDEX boot_order ON boot (dk, number);

-- A crystal may be off by 100 ppm, which is allowed for.
CREATE VIEW attempt_events_timed AS
SELECT e.*, b.kind AS time_kind,
       b.low_ms + e.boottime_ms - e.boottime_ms / 10000 - 1 AS occurred_low_ms,
       b.high_ms + e.boottime_ms + e.boottime_ms / 10000 + 1 AS occurred_high_ms
FROM attempt_events AS e LEFT JOIN boot AS b ON b.dk = e.dk AND b.boot_id = e.boot_id;

-- Sessions, made here or on a device. rev counts a session's changes on the side that owns it.
CREATE TABLE learner_session (
    session_id      TEXT    PRIMARY KEY,
    user_id         TEXT    NOT NULL,
    dk              INTEGER NOT NULL,               -- 0: made here
    mode            TEXT    NOT NULL,
    filters         TEXT    NOT NULL,
    question_ids    TEXT    NOT NULL,               -- a JSON list; empty until the session itself has arrived
    state           TEXT    NOT NULL CHECK (state IN ('active', 'submitted', 'expired')),
    rev             INTEGER NOT NULL,
    created_at_ms   INTEGER NOT NULL,
    expires_at_ms   INTEGER,
    ended_at_ms     INTEGER,
    updated_at_ms   INTEGER NOT NULL,
    CHECK ((state = 'active') = (ended_at_ms IS NULL))
) WITHOUT ROWID;
CREATE INDEX learner_session_user ON learner_session (user_id, created_at_ms);
CREATE INDEX learner_session_expiry ON learner_session (expires_at_ms) WHERE state = 'active' AND dk = 0;

CREATE TABLE session_answer (
    session_id      TEXT    NOT NULL,
    question_id     TEXT    NOT NULL,
    position        INTEGER NOT NULL,
    selected_index  INTEGER,
    marked          INTEGER NOT NULL CHECK (marked IN (0, 1)),
    rev             INTEGER NOT NULL,
    answered_at_ms  INTEGER NOT NULL,
    PRIMARY KEY (session_id, question_id)
) WITHOUT ROWID;

-- The export to the warehouse: a range of a dataset becomes one set of files, planned before it is written.
CREATE TABLE export_range (
    dataset         TEXT    NOT NULL,
    from_ord        INTEGER NOT NULL,               -- exclusive
    to_ord          INTEGER NOT NULL,               -- inclusive
    state           TEXT    NOT NULL CHECK (state IN ('planned', 'published', 'stale')),
    rows_count      INTEGER NOT NULL DEFAULT 0,
    files           TEXT    NOT NULL DEFAULT '[]',
    attempts        INTEGER NOT NULL DEFAULT 0,
    error           TEXT,
    planned_at_ms   INTEGER NOT NULL,
    published_at_ms INTEGER,
    PRIMARY KEY (dataset, from_ord)
) WITHOUT ROWID;

-- More of each batch: whose it was, what went wrong, what clashed. A user's refers to no device.
CREATE TABLE batch_log_new (
    id                    INTEGER PRIMARY KEY,
    dk                    INTEGER NOT NULL,
    user_id               TEXT    NOT NULL DEFAULT '',
    batch_id              TEXT    NOT NULL,
    items                 INTEGER NOT NULL,
    successful            INTEGER NOT NULL,
    failed                INTEGER NOT NULL,
    conflicts             INTEGER NOT NULL,
    duplicates            INTEGER NOT NULL,
    received_at_ms        INTEGER NOT NULL,
    duration_ms           INTEGER NOT NULL,
    errors                TEXT    NOT NULL DEFAULT '[]',
    conflict_details      TEXT    NOT NULL DEFAULT '[]'
);
INSERT INTO batch_log_new (
    id, dk, batch_id, items, successful, failed, conflicts, duplicates, received_at_ms, duration_ms
)
SELECT id, dk, batch_id, items, successful, failed, conflicts, duplicates, received_at_ms, duration_ms FROM batch_log;
DROP TABLE batch_log;
ALTER TABLE batch_log_new RENAME TO batch_log;
CREATE INDEX batch_log_device ON batch_log (dk, id);
CREATE INDEX batch_log_user ON batch_log (user_id, id) WHERE user_id <> '';
CREATE INDEX batch_log_received ON batch_log (received_at_ms);

CREATE INDEX rejected_item_received ON rejected_item (received_at_ms);
