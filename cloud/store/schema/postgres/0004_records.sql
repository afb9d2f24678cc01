-- Records of both sides, what was decided about them, webhooks out and in, and hashes in the audit log.

-- Rises with every change of any record; locked until the commit, so that no reader of the feed passes a change that
-- is still to come. `records-forgotten`: the last change of which a tombstone was dropped. `webhooks`: endpoints changed.
INSERT INTO generation (name, value) VALUES ('records', 0), ('records-forgotten', 0), ('webhooks', 1);

CREATE TABLE record (
    type            TEXT    NOT NULL,
    id              TEXT    NOT NULL,
    state           TEXT    NOT NULL,               -- pisyncd.core.record.State as JSON; '{}' once purged
    fields          TEXT    NOT NULL,               -- what it shows
    deleted         BIGINT NOT NULL CHECK (deleted IN (0, 1)),
    purged          BIGINT NOT NULL DEFAULT 0 CHECK (purged IN (0, 1)),
    change          BIGINT NOT NULL,               -- where it stands in the feed of changes
    echo            TEXT    NOT NULL DEFAULT '',    -- 'WRITER:VERSION' of the copy that told all of it last
    created_at_ms   BIGINT NOT NULL,
    updated_at_ms   BIGINT NOT NULL,
    PRIMARY KEY (type, id)
);
CREATE UNIQUE INDEX record_change ON record (change);
CREATE INDEX record_deleted ON record (updated_at_ms) WHERE deleted = 1;

-- Whom a record concerns: a site, a group, a user, or a device that wrote it. `gone`: it did once.
CREATE TABLE record_scope (
    type            TEXT    NOT NULL,
    id              TEXT    NOT NULL,
    kind            TEXT    NOT NULL CHECK (kind IN ('site', 'group', 'user', 'device')),
    value           TEXT    NOT NULL,
    gone            BIGINT NOT NULL DEFAULT 0 CHECK (gone IN (0, 1)),
    PRIMARY KEY (type, id, kind, value)
);
CREATE INDEX record_scope_value ON record_scope (kind, value, type, id);

-- What a device is entitled to, beside what it wrote itself. Any change of it makes the device fetch all anew.
CREATE TABLE subscription (
    dk              BIGINT NOT NULL,
    kind            TEXT    NOT NULL CHECK (kind IN ('site', 'group', 'user')),
    value           TEXT    NOT NULL,
    created_at_ms   BIGINT NOT NULL,
    PRIMARY KEY (dk, kind, value)
);

-- Whose a writer is; who comes first has it. dk 0: the cloud itself.
CREATE TABLE record_writer (
    writer          TEXT    PRIMARY KEY,
    dk              BIGINT NOT NULL,
    name            TEXT    NOT NULL                -- what a person calls it
);

-- The form of a type's states; it cannot change while there are any.
CREATE TABLE record_form (
    type            TEXT    PRIMARY KEY,
    by_field        BIGINT NOT NULL CHECK (by_field IN (0, 1))
);

-- Each decision between writes, with the losing side.
CREATE TABLE conflict (
    ord             BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id              TEXT    NOT NULL UNIQUE,
    type            TEXT    NOT NULL,
    record_id       TEXT    NOT NULL,
    field           TEXT    NOT NULL,
    state           TEXT    NOT NULL CHECK (state IN ('open', 'automatic', 'resolved')),
    decision        TEXT    NOT NULL,               -- pisyncd.core.merge.Decision as JSON
    explanation     TEXT    NOT NULL,
    dk              BIGINT NOT NULL,               -- whose report brought it up; 0: the cloud's own
    created_at_ms   BIGINT NOT NULL,
    resolved_at_ms  BIGINT,
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
    old_until_ms    BIGINT,
    state           TEXT    NOT NULL CHECK (state IN ('enabled', 'disabled')),
    reason          TEXT    NOT NULL DEFAULT '',    -- why it is disabled
    failing_since_ms BIGINT,
    held_until_ms   BIGINT,                        -- nothing is tried before: it failed or asked for it
    created_at_ms   BIGINT NOT NULL,
    updated_at_ms   BIGINT NOT NULL,
    CHECK ((old_secret IS NULL) = (old_until_ms IS NULL))
);

CREATE TABLE webhook_event (
    ord             BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id              TEXT    NOT NULL UNIQUE,        -- webhook-id
    type            TEXT    NOT NULL,
    resource_type   TEXT    NOT NULL,
    resource_id     TEXT    NOT NULL,
    body            TEXT    NOT NULL,               -- as it is signed and sent, the same at every attempt
    user_id         TEXT    NOT NULL DEFAULT '',
    created_at_ms   BIGINT NOT NULL
);
CREATE INDEX webhook_event_time ON webhook_event (created_at_ms, ord);
CREATE INDEX webhook_event_resource ON webhook_event (resource_type, resource_id, ord);
CREATE INDEX webhook_event_user ON webhook_event (user_id) WHERE user_id <> '';

CREATE TABLE webhook_delivery (
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- the order within a resource
    endpoint_id     TEXT    NOT NULL,
    event_ord       BIGINT NOT NULL,
    resource        TEXT    NOT NULL,               -- type/id: deliveries of one resource keep their order
    kind            TEXT    NOT NULL CHECK (kind IN ('event', 'replay', 'test')),
    state           TEXT    NOT NULL CHECK (state IN ('pending', 'processing', 'delivered', 'failed')),
    attempts        BIGINT NOT NULL DEFAULT 0,
    due_at_ms       BIGINT NOT NULL,
    lease_until_ms  BIGINT,                        -- processing: who died with it gives it back then
    status_code     BIGINT,                        -- of the last attempt
    error           TEXT,
    created_at_ms   BIGINT NOT NULL,
    ended_at_ms     BIGINT,
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
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    delivery_id     BIGINT NOT NULL,
    endpoint_id     TEXT    NOT NULL,
    at_ms           BIGINT NOT NULL,
    duration_ms     BIGINT NOT NULL,
    status_code     BIGINT,                        -- null: no answer
    error           TEXT,                           -- null: delivered
    answer          TEXT    NOT NULL DEFAULT ''     -- the beginning of what was answered
);
CREATE INDEX webhook_attempt_delivery ON webhook_attempt (delivery_id, id);
CREATE INDEX webhook_attempt_time ON webhook_attempt (at_ms);

-- Webhooks in: answered once, and the same again.
CREATE TABLE webhook_inbound (
    id              TEXT    PRIMARY KEY,
    digest          BYTEA   NOT NULL,
    answer          TEXT    NOT NULL,
    received_at_ms  BIGINT NOT NULL
);
CREATE INDEX webhook_inbound_time ON webhook_inbound (received_at_ms);

ALTER TABLE audit ADD COLUMN before_hash TEXT;      -- SHA-256, 64 hex digits, of what was there before; null: nothing
ALTER TABLE audit ADD COLUMN after_hash TEXT;
CREATE INDEX audit_action ON audit (action, id);
CREATE INDEX audit_actor ON audit (actor, id);
