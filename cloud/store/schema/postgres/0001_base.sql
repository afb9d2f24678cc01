-- Identity: who may speak, and as what. Secrets are kept as SHA-256 only.

CREATE TABLE device (
    dk              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,            -- internal key, never on the wire
    device_id       TEXT    NOT NULL UNIQUE,
    enrolled_at_ms  BIGINT  NOT NULL,
    revoked_at_ms   BIGINT
);

CREATE TABLE device_token (
    token_hash      TEXT    PRIMARY KEY CHECK (length(token_hash) = 64),
    dk              BIGINT  NOT NULL REFERENCES device (dk),
    created_at_ms   BIGINT  NOT NULL,
    expires_at_ms   BIGINT                          -- null: until rotated or revoked
);
CREATE INDEX device_token_dk ON device_token (dk);

CREATE TABLE api_key (
    key_hash        TEXT    PRIMARY KEY CHECK (length(key_hash) = 64),
    name            TEXT    NOT NULL,
    role            TEXT    NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    created_at_ms   BIGINT  NOT NULL,
    revoked_at_ms   BIGINT
);
CREATE UNIQUE INDEX api_key_name ON api_key (name) WHERE revoked_at_ms IS NULL;

CREATE TABLE web_session (
    session_hash    TEXT    PRIMARY KEY CHECK (length(session_hash) = 64),
    key_hash        TEXT    NOT NULL REFERENCES api_key (key_hash),
    expires_at_ms   BIGINT  NOT NULL
);
CREATE INDEX web_session_expiry ON web_session (expires_at_ms);

-- Rises with every change of identity, so that a running service forgets what it remembers.
CREATE TABLE generation (
    name            TEXT    PRIMARY KEY,
    value           BIGINT  NOT NULL
);
INSERT INTO generation (name, value) VALUES ('identity', 1);

-- Current state: one row per device, written at ingest so that no list has to scan the history.

CREATE TABLE device_state (
    dk                    BIGINT  PRIMARY KEY REFERENCES device (dk),
    events_total          BIGINT  NOT NULL DEFAULT 0,
    success_total         BIGINT  NOT NULL DEFAULT 0,
    partial_total         BIGINT  NOT NULL DEFAULT 0,
    failed_total          BIGINT  NOT NULL DEFAULT 0,
    consecutive_failures  BIGINT  NOT NULL DEFAULT 0,
    files_synced_total    BIGINT  NOT NULL DEFAULT 0,
    last_status           TEXT    CHECK (last_status IN ('success', 'partial', 'failed')),
    last_event_at_ms      BIGINT,
    last_success_at_ms    BIGINT,
    last_failed_at_ms     BIGINT,
    last_error_code       TEXT,
    last_speed_mbps       DOUBLE PRECISION,
    last_queue_depth      BIGINT,
    alert_opened_at_ms    BIGINT,
    last_seen_at_ms       BIGINT,
    updated_at_ms         BIGINT  NOT NULL DEFAULT 0,
    shut_out              INTEGER NOT NULL DEFAULT 0 CHECK (shut_out IN (0, 1)),  -- the device is revoked
    CHECK (events_total = success_total + partial_total + failed_total)
) WITH (fillfactor = 70);  -- room for updates in place: this row is written with every event
CREATE INDEX device_state_failed ON device_state (failed_total DESC, dk)
    WHERE failed_total > 0 AND shut_out = 0;
CREATE INDEX device_state_streak ON device_state (consecutive_failures DESC, dk)
    WHERE consecutive_failures > 0 AND shut_out = 0;

-- History. No foreign keys in what is written most: dk comes from the device's own row, which is never deleted, and
-- checking it again costs PostgreSQL a quarter of the insert.

CREATE TABLE sync_event (
    id                    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dk                    BIGINT  NOT NULL,
    event_id              TEXT    NOT NULL,
    digest                BYTEA   NOT NULL,         -- of the content, to tell a repeat from a clash
    occurred_at_ms        BIGINT  NOT NULL,         -- the order of the history: the sent time when it can be right
    received_at_ms        BIGINT  NOT NULL,
    sent_timestamp        TEXT    NOT NULL,         -- as the device wrote it
    files_synced          BIGINT  NOT NULL CHECK (files_synced >= 0),
    errors                BIGINT  NOT NULL CHECK (errors >= 0),
    speed_mbps            DOUBLE PRECISION CHECK (speed_mbps >= 0),
    status                TEXT    NOT NULL CHECK (status IN ('success', 'partial', 'failed')),
    consecutive_failures  BIGINT  NOT NULL,
    time_flags            INTEGER NOT NULL,         -- 1 clock_suspect, 2 future, 4 derived, 8 late
    seq                   BIGINT,
    boot_id               TEXT,
    boottime_ms           BIGINT,
    error_code            TEXT,
    bytes_sent            BIGINT,
    duration_ms           BIGINT,
    queue_depth           BIGINT
);
CREATE UNIQUE INDEX sync_event_identity ON sync_event (dk, event_id);
CREATE INDEX sync_event_history ON sync_event (dk, occurred_at_ms, id) INCLUDE (status);

CREATE TABLE notification (
    id                    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dk                    BIGINT  NOT NULL REFERENCES device (dk),
    kind                  TEXT    NOT NULL,
    opened_at_ms          BIGINT  NOT NULL,
    closed_at_ms          BIGINT,
    consecutive_failures  BIGINT  NOT NULL,         -- how long the streak was when it was last looked at
    last_error_code       TEXT,
    CHECK (closed_at_ms IS NULL OR closed_at_ms >= opened_at_ms)
);
CREATE UNIQUE INDEX notification_open ON notification (dk, kind) WHERE closed_at_ms IS NULL;
CREATE INDEX notification_opened ON notification (opened_at_ms, id);
CREATE INDEX notification_device ON notification (dk, id);

-- Messages: exactly once by (device, stream, seq) and by id.

CREATE TABLE stream_mark (
    dk                    BIGINT  NOT NULL REFERENCES device (dk),
    stream                TEXT    NOT NULL,
    received_through      BIGINT  NOT NULL CHECK (received_through >= 0),
    PRIMARY KEY (dk, stream)
);

-- What arrived beyond a gap; emptied when the gap closes.
CREATE TABLE stream_ahead (
    dk                    BIGINT  NOT NULL,
    stream                TEXT    NOT NULL,
    seq                   BIGINT  NOT NULL CHECK (seq >= 1),
    PRIMARY KEY (dk, stream, seq)
);

CREATE TABLE message (
    id                    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dk                    BIGINT  NOT NULL,
    item_id               TEXT    NOT NULL,
    item_type             TEXT    NOT NULL,
    stream                TEXT,
    seq                   BIGINT,
    digest                BYTEA   NOT NULL,
    body                  TEXT    NOT NULL,
    boot_id               TEXT,
    boottime_ms           BIGINT,
    wall_ms               BIGINT,
    clock_trusted         INTEGER,
    received_at_ms        BIGINT  NOT NULL
);
CREATE UNIQUE INDEX message_identity ON message (dk, item_id);
CREATE INDEX message_device ON message (dk, id);

-- What was refused for good is kept whole, with the reason.
CREATE TABLE rejected_item (
    id                    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dk                    BIGINT  NOT NULL REFERENCES device (dk),
    item_id               TEXT    NOT NULL,
    item_type             TEXT    NOT NULL,
    stream                TEXT,
    seq                   BIGINT,
    digest                BYTEA   NOT NULL,
    code                  TEXT    NOT NULL,
    detail                TEXT    NOT NULL,
    body                  TEXT    NOT NULL,
    received_at_ms        BIGINT  NOT NULL
);
CREATE UNIQUE INDEX rejected_item_identity ON rejected_item (dk, item_id, digest);
CREATE INDEX rejected_item_device ON rejected_item (dk, id);

CREATE TABLE batch_log (
    id                    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dk                    BIGINT  NOT NULL REFERENCES device (dk),
    batch_id              TEXT    NOT NULL,
    items                 BIGINT  NOT NULL,
    successful            BIGINT  NOT NULL,
    failed                BIGINT  NOT NULL,
    conflicts             BIGINT  NOT NULL,
    duplicates            BIGINT  NOT NULL,
    received_at_ms        BIGINT  NOT NULL,
    duration_ms           BIGINT  NOT NULL
);
CREATE INDEX batch_log_device ON batch_log (dk, id);
CREATE INDEX batch_log_received ON batch_log (received_at_ms);
