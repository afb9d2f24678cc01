-- Records of both sides, what was decided about them, webhooks out and in, and hashes in the audit log.

-- Rises with every change of any record; locked until the commit, so that no reader of the feed passes a change that
-- is still to come. `records-forgotten`: the last change of which a tombstone was dropped. `webhooks`: endpoints changed.
INSERT INTO generation (name, value) VALUES ('records', 0), ('records-forgotten', 0), ('webhooks', 1);

CREATE TABLE record (
    type            TEXT    NOT NULL,
    id              TEXT    NOT NULL,
    state           TEXT    NOT NULL,               -- pisyncd.core.record.State as JSON; '{}' once purged
    fields          TEXT    NOT NULL,               -- what it shows
    deleted         INTEGER NOT NULL CHECK (deleted IN (0, 1)),
    purged          INTEGER NOT NULL DEFAULT 0 CHECK (purged IN (0, 1)),
    change          INTEGER NOT NULL,               -- where it stands in the feed of changes
    echo            TEXT    NOT NULL DEFAULT '',    -- 'WRITER:VERSION' of the copy that told all of it last
    created_at_ms   INTEGER NOT NULL,
    updated_at_ms   INTEGER NOT NULL,
    PRIMARY KEY (type, id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX record_change ON record (change);
CREATE INDEX record_deleted ON record (updated_at_ms) WHERE deleted = 1;

-- Whom a record concerns: a site, a group, a user, or a device that wrote it. `gone`: it did once.
CREATE TABLE record_scope (
    type            TEXT    NOT NULL,
    id              TEXT    NOT NULL,
    kind            TEXT    NOT NULL CHECK (kind IN ('site', 'group', 'user', 'device')),
    value           TEXT    NOT NULL,
    gone            INTEGER NOT NULL DEFAULT 0 CHECK (gone IN (0, 1)),
    PRIMARY KEY (type, id, kind, value)
) WITHOUT ROWID;
CREATE INDEX record_scope_value ON record_scope (kind, value, type, id);

-- What a device is entitled to, beside what it wrote itself. Any change of it makes the device fetch all anew.
CREATE TABLE subscription (
    dk              INTEGER NOT NULL,
    kind            TEXT    NOT NULL CHECK (kind IN ('site', 'group', 'user')),
    value           TEXT    NOT NULL,
    created_at_ms   INTEGER NOT NULL,
    PRIMARY KEY (dk, kind, value)
) WITHOUT ROWID;

-- Whose a writer is; who comes first has it. dk 0: the cloud itself.
CREATE TABLE record_writer (
    writer          TEXT    PRIMARY KEY,
    dk              INTEGER NOT NULL,
    name            TEXT    NOT NULL                -- what a person calls it
) WITHOUT ROWID;

-- The form of a type's states; it cannot change while there are any.
CREATE TABLE record_form (
    type            TEXT    PRIMARY KEY,
    by_field        INTEGER NOT NULL CHECK (by_field IN (0, 1))
) WITHOUT ROWID;

-- Each decision between writes, with the losing side.
CREATE TABLE conflict (
    ord             INTEGER PRIMARY KEY AUTOINCREMENT,
    id              TEXT    NOT NULL UNIQUE,
    type            TEXT    NOT NULL,
    record_id       TEXT    NOT NULL,
    field           TEXT    NOT NULL,
    state           TEXT    NOT NULL CHECK (state IN ('open', 'automatic', 'resolved')),
    decision        TEXT    NOT NULL,               -- pisyncd.core.merge.Decision as JSON
    explanation     TEXT    NOT NULL,
    dk              INTEGER NOT NULL,               -- whose report brought it up; 0: the cloud's own
    created_at_ms   INTEGER NOT NULL,
    resolved_at_ms  INTEGER,
    resolved_by     TEXT,
    resolution      TEXT,
    CHECK ((state = 'resolved') = (resolved_at_ms IS NOT NULL))
);
CREATE INDEX conflict_record ON conflict (type, record_id, ord);
CREATE INDEX conflict_open ON conflict (ord) WHERE state = 'open';

-- Webhooks out: an endpoint, what happened, what is to be delivered of it to whom, and every attempt.
CREATE TABLE webhook_endpoint (
    id              TEXT    PRIMARY KEY,
    url             TEXT    NOT NULL,
    description     TEXT    NOT NULL,
    event_types     TEXT    NOT NULL,               -- JSON list: 'profile.updated', 'profile.*', '*'
    secret          TEXT    NOT NULL,               -- whsec_...
    old_secret      TEXT,
    old_until_ms    INTEGER,
    state           TEXT    NOT NULL CHECK (state IN ('enabled', 'disabled')),
    reason          TEXT    NOT NULL DEFAULT '',    -- why it is disabled
    failing_since_ms INTEGER,
    held_until_ms   INTEGER,                        -- nothing is tried before: it failed or asked for it
    created_at_ms   INTEGER NOT NULL,
    updated_at_ms   INTEGER NOT NULL,
    CHECK ((old_secret IS NULL) = (old_until_ms IS NULL))
) WITHOUT ROWID;

CREATE TABLE webhook_event (
    ord             INTEGER PRIMARY KEY AUTOINCREMENT,
    id              TEXT    NOT NULL UNIQUE,        -- webhook-id
    type            TEXT    NOT NULL,
    resource_type   TEXT    NOT NULL,
    resource_id     TEXT    NOT NULL,
    body            TEXT    NOT NULL,               -- as it is signed and sent, the same at every attempt
    user_id         TEXT    NOT NULL DEFAULT '',
    created_at_ms   INTEGER NOT NULL
);
CREATE INDEX webhook_event_time ON webhook_event (created_at_ms, ord);
CREATE INDEX webhook_event_resource ON webhook_event (resource_type, resource_id, ord);
CREATE INDEX webhook_event_user ON webhook_event (user_id) WHERE user_id <> '';

CREATE TABLE webhook_delivery (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order within a resource
    endpoint_id     TEXT    NOT NULL,
    event_ord       INTEGER NOT NULL,
    resource        TEXT    NOT NULL,               -- type/id: deliveries of one resource keep their order
    kind            TEXT    NOT NULL CHECK (kind IN ('event', 'replay', 'test')),
    state           TEXT    NOT NULL CHECK (state IN ('pending', 'processing', 'delivered', 'failed')),
    attempts        INTEGER NOT NULL DEFAULT 0,
    due_at_ms       INTEGER NOT NULL,
    lease_until_ms  INTEGER,                        -- processing: who died with it gives it back then
    status_code     INTEGER,                        -- of the last attempt
    error           TEXT,
    created_at_ms   INTEGER NOT NULL,
    ended_at_ms     INTEGER,
    CHECK ((state IN ('delivered', 'failed')) = (ended_at_ms IS NOT NULL)),
    CHECK ((state = 'processing') = (lease_until_ms IS NOT NULL))
);
CREATE INDEX webhook_delivery_due ON webhook_delivery (endpoint_id, due_at_ms, id) WHERE state = 'pending';
CREATE INDEX webhook_delivery_order ON webhook_delivery (endpoint_id, resource, id)
    WHERE state IN ('pending', 'processing');
CREATE INDEX webhook_delivery_log ON webhook_delivery (endpoint_id, id);
CREATE INDEX webhook_delivery_ended ON webhook_delivery (ended_at_ms) WHERE ended_at_ms IS NOT NULL;
CREATE INDEX webhook_delivery_event ON webhook_delivery (event_ord);
CREATE INDEX webhook_delivery_leased ON webhook_delivery (lease_until_ms) WHERE state = 'processing';

CREATE TABLE webhook_attempt (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    delivery_id     INTEGER NOT NULL,
    endpoint_id     TEXT    NOT NULL,
    at_ms           INTEGER NOT NULL,
    duration_ms     INTEGER NOT NULL,
    status_code     INTEGER,                        -- null: no answer
    error           TEXT,                           -- null: delivered
    answer          TEXT    NOT NULL DEFAULT ''     -- the beginning of what was answered
);
CREATE INDEX webhook_attempt_delivery ON webhook_attempt (delivery_id, id);
CREATE INDEX webhook_attempt_time ON webhook_attempt (at_ms);

-- Webhooks in: answered once, and the same again.
CREATE TABLE webhook_inbound (
    id              TEXT    PRIMARY KEY,
    digest          BLOB    NOT NULL,
    answer          TEXT    NOT NULL,
    received_at_ms  INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX webhook_inbound_time ON webhook_inbound (received_at_ms);

ALTER TABLE audit ADD COLUMN before_hash TEXT;      -- SHA-256, 64 hex digits, of what was there before; null: nothing
ALTER TABLE audit ADD COLUMN after_hash TEXT;
CREATE INDEX audit_action ON audit (action, id);
CREATE INDEX audit_actor ON audit (actor, id);
