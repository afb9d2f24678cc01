-- Operators: how devices stand, what they belong to, who is told, who may look and act, and how devices are let in.

-- `fleet` rises with whatever a page shows of the fleet, `commands` with what devices are to be asked; `transitions` is
-- the last transition that the rules of notification have seen.
INSERT INTO generation (name, value) VALUES ('fleet', 0), ('commands', 0), ('transitions', 0);

ALTER TABLE device ADD COLUMN label TEXT NOT NULL DEFAULT '';     -- what people call it
ALTER TABLE device ADD COLUMN note TEXT NOT NULL DEFAULT '';
ALTER TABLE device ADD COLUMN rotate_at_ms BIGINT;               -- its next batch is answered with a new token
ALTER TABLE device_token ADD COLUMN used_at_ms BIGINT;           -- first use; older tokens end with it
UPDATE device_token SET used_at_ms = created_at_ms;

-- Groups, by name. A site is one place; a region holds sites; a group is anything else.
CREATE TABLE device_group (
    name            TEXT    PRIMARY KEY,
    kind            TEXT    NOT NULL CHECK (kind IN ('group', 'site', 'region')),
    parent          TEXT,                           -- of a site: its region
    calendar        TEXT,                           -- a name of calendar_file; null: the region's, else 'default'
    learners        BIGINT CHECK (learners >= 0),
    note            TEXT    NOT NULL DEFAULT '',
    created_at_ms   BIGINT NOT NULL,
    updated_at_ms   BIGINT NOT NULL,
    CHECK (parent IS NULL OR kind = 'site')
);
CREATE INDEX device_group_parent ON device_group (parent) WHERE parent IS NOT NULL;

-- Who belongs where; a site's region stands here too, so that one look is enough.
CREATE TABLE group_member (
    dk              BIGINT NOT NULL,
    name            TEXT    NOT NULL,
    kind            TEXT    NOT NULL CHECK (kind IN ('group', 'site', 'region')),
    PRIMARY KEY (dk, name)
);
CREATE UNIQUE INDEX group_member_site ON group_member (dk) WHERE kind = 'site';
CREATE INDEX group_member_name ON group_member (name, dk);

CREATE TABLE device_tag (
    dk              BIGINT NOT NULL,
    tag             TEXT    NOT NULL,
    PRIMARY KEY (dk, tag)
);
CREATE INDEX device_tag_tag ON device_tag (tag, dk);

-- What a device last said of itself. See pisyncd/core/vitals.py.
CREATE TABLE device_vitals (
    dk                  BIGINT PRIMARY KEY,
    body                TEXT    NOT NULL,
    at_ms               BIGINT NOT NULL,
    received_at_ms      BIGINT NOT NULL,
    version             TEXT,
    disk_free_percent   DOUBLE PRECISION,
    temperature_c       DOUBLE PRECISION,
    throttled           BIGINT,
    clock_trusted       BIGINT
);

-- How a device stands (cloud/rules/standing.py), and every change of it. `under`: what it would be if nobody had muted it.
CREATE TABLE device_standing (
    dk              BIGINT PRIMARY KEY,
    state           TEXT    NOT NULL DEFAULT 'new' CHECK (state IN ('new', 'healthy', 'expected-quiet', 'overdue',
                                'failing', 'recovering', 'muted', 'retired')),
    under           TEXT    NOT NULL DEFAULT 'new' CHECK (under IN ('new', 'healthy', 'expected-quiet', 'overdue',
                                'failing', 'recovering', 'retired')),
    since_ms        BIGINT NOT NULL,
    reason          TEXT    NOT NULL DEFAULT 'enrolled',
    detail          TEXT    NOT NULL DEFAULT '',
    muted_until_ms  BIGINT,                        -- null: not muted
    muted_by        TEXT,
    mute_note       TEXT    NOT NULL DEFAULT '',
    flap_score      DOUBLE PRECISION    NOT NULL DEFAULT 0,
    flap_at_ms      BIGINT NOT NULL DEFAULT 0,
    flapping        BIGINT NOT NULL DEFAULT 0 CHECK (flapping IN (0, 1)),
    heard_ms        BIGINT NOT NULL DEFAULT 0,     -- the last_seen_at_ms that was judged, 0: none
    heard_events    BIGINT NOT NULL DEFAULT 0,     -- the events_total that was judged
    due_at_ms       BIGINT,                        -- to be judged again then, though nothing is heard
    rhythm          TEXT    NOT NULL DEFAULT '',    -- cloud/rules/rhythm.py, as JSON
    backlog         BIGINT,                        -- items waiting on the device when it last said so
    backlog_at_ms   BIGINT,
    drain_per_s     DOUBLE PRECISION,
    clear_at_ms     BIGINT,                        -- when the backlog should be gone
    CHECK ((state = 'muted') = (muted_until_ms IS NOT NULL) OR state = 'retired')
) WITH (fillfactor = 70);  -- judged again with every contact
CREATE INDEX device_standing_state ON device_standing (state, since_ms, dk);

INSERT INTO device_standing (dk, since_ms, state, under, reason)
SELECT d.dk, coalesce(d.revoked_at_ms, d.enrolled_at_ms),
       CASE WHEN d.revoked_at_ms IS NULL THEN 'new' ELSE 'retired' END,
       CASE WHEN d.revoked_at_ms IS NULL THEN 'new' ELSE 'retired' END,
       CASE WHEN d.revoked_at_ms IS NULL THEN 'enrolled' ELSE 'revoked' END
FROM device AS d;

CREATE TABLE device_transition (
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dk              BIGINT NOT NULL,
    old_state       TEXT    NOT NULL,
    new_state       TEXT    NOT NULL,
    reason          TEXT    NOT NULL,
    detail          TEXT    NOT NULL DEFAULT '',
    at_ms           BIGINT NOT NULL
);
CREATE INDEX device_transition_device ON device_transition (dk, id);
CREATE INDEX device_transition_time ON device_transition (at_ms);

-- Failures by their fingerprint (the error code; its hint stands in cloud/rules/faults.py), written at ingest.
CREATE TABLE device_fault (
    dk              BIGINT NOT NULL,
    code            TEXT    NOT NULL,
    first_seen_ms   BIGINT NOT NULL,
    last_seen_ms    BIGINT NOT NULL,
    count           BIGINT NOT NULL,
    since_ms        BIGINT,                        -- begun with this event of the run of failures; null: it is over
    PRIMARY KEY (dk, code)
);
CREATE INDEX device_fault_code ON device_fault (code, dk);
CREATE INDEX device_fault_active ON device_fault (code, since_ms) WHERE since_ms IS NOT NULL;
INSERT INTO device_fault (dk, code, first_seen_ms, last_seen_ms, count)
SELECT dk, error_code, min(received_at_ms), max(received_at_ms), count(*) FROM sync_event
WHERE error_code IS NOT NULL AND status <> 'success' GROUP BY dk, error_code;

-- Sync events per hour of receipt. Every writer has a slot of its own, so that none waits for another's commit.
CREATE TABLE sync_hour (
    hour_ms         BIGINT NOT NULL,
    slot            BIGINT NOT NULL,
    success         BIGINT NOT NULL DEFAULT 0,
    partial         BIGINT NOT NULL DEFAULT 0,
    failed          BIGINT NOT NULL DEFAULT 0,
    files           BIGINT NOT NULL DEFAULT 0,
    bytes           BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (hour_ms, slot)
);
INSERT INTO sync_hour (hour_ms, slot, success, partial, failed, files, bytes)
SELECT received_at_ms / 3600000 * 3600000, 0, sum(CASE WHEN status = 'success' THEN 1 ELSE 0 END),
       sum(CASE WHEN status = 'partial' THEN 1 ELSE 0 END), sum(CASE WHEN status = 'failed' THEN 1 ELSE 0 END),
       sum(files_synced), sum(coalesce(bytes_sent, 0))
FROM sync_event GROUP BY received_at_ms / 3600000 * 3600000;

-- What a device is asked to do in the answer to its next batch; asked again until it has told how that ended.
CREATE TABLE device_command (
    id              TEXT    PRIMARY KEY,
    dk              BIGINT NOT NULL,
    kind            TEXT    NOT NULL CHECK (kind IN ('sync', 'support-bundle')),
    state           TEXT    NOT NULL CHECK (state IN ('pending', 'sent', 'done', 'failed', 'expired')),
    detail          TEXT    NOT NULL DEFAULT '',    -- of what is done or failed: the bundle's path, or why
    created_by      TEXT    NOT NULL,
    created_at_ms   BIGINT NOT NULL,
    sent_at_ms      BIGINT,
    ended_at_ms     BIGINT,
    CHECK ((state IN ('done', 'failed', 'expired')) = (ended_at_ms IS NOT NULL))
);
CREATE INDEX device_command_open ON device_command (dk, created_at_ms) WHERE state IN ('pending', 'sent');
CREATE INDEX device_command_device ON device_command (dk, created_at_ms);

-- Who is told: channels, rules, silences; what came of them: incidents and their notices.
CREATE TABLE channel (
    name            TEXT    PRIMARY KEY,
    url             TEXT    NOT NULL,               -- of apprise; it may hold secrets and is shown without them
    quiet_hours     TEXT    NOT NULL DEFAULT '',    -- '22:00-06:00': nothing is sent then
    digest_at       TEXT    NOT NULL DEFAULT '',    -- '07:00': everything once a day
    timezone        TEXT    NOT NULL DEFAULT '',    -- '': the service's
    enabled         BIGINT NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
    created_at_ms   BIGINT NOT NULL,
    updated_at_ms   BIGINT NOT NULL
);

CREATE TABLE alert_rule (
    name            TEXT    PRIMARY KEY,
    enabled         BIGINT NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
    states          TEXT    NOT NULL,               -- JSON list: 'failing', 'overdue'
    groups          TEXT    NOT NULL DEFAULT '[]',  -- JSON lists; empty: all
    tags            TEXT    NOT NULL DEFAULT '[]',
    faults          TEXT    NOT NULL DEFAULT '[]',  -- error codes, 'card-*' too
    channels        TEXT    NOT NULL DEFAULT '[]',
    wait_s          BIGINT NOT NULL DEFAULT 0,     -- how long the state has to last
    escalate_after_s BIGINT,                       -- nobody has acknowledged by then
    escalate_to     TEXT    NOT NULL DEFAULT '[]',  -- channels
    created_at_ms   BIGINT NOT NULL,
    updated_at_ms   BIGINT NOT NULL
);
-- Without a channel nobody is told, but the incident stands on the page and can be acknowledged.
INSERT INTO alert_rule (name, states, created_at_ms, updated_at_ms) VALUES ('needs-a-person', '["failing","overdue"]', 0, 0);

CREATE TABLE silence (
    id              TEXT    PRIMARY KEY,
    device_id       TEXT,                           -- null: any; all that are given have to match
    group_name      TEXT,
    tag             TEXT,
    fault           TEXT,
    from_ms         BIGINT NOT NULL,
    until_ms        BIGINT NOT NULL,
    comment         TEXT    NOT NULL,
    created_by      TEXT    NOT NULL,
    created_at_ms   BIGINT NOT NULL,
    CHECK (from_ms < until_ms)
);
CREATE INDEX silence_until ON silence (until_ms);

CREATE TABLE incident (
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rule            TEXT    NOT NULL,
    kind            TEXT    NOT NULL CHECK (kind IN ('device', 'group', 'fault')),
    subject         TEXT    NOT NULL,               -- a device_id, a group's name, an error code
    cause           TEXT    NOT NULL,               -- the state that it is about
    fault           TEXT    NOT NULL DEFAULT '',
    state           TEXT    NOT NULL CHECK (state IN ('open', 'acknowledged', 'closed')),
    opened_at_ms    BIGINT NOT NULL,
    closed_at_ms    BIGINT,
    acknowledged_at_ms BIGINT,
    acknowledged_by TEXT,
    note            TEXT    NOT NULL DEFAULT '',
    escalate_at_ms  BIGINT,                        -- null: not to be, or done
    devices         BIGINT NOT NULL DEFAULT 1,     -- how many it was about
    updated_at_ms   BIGINT NOT NULL,
    CHECK ((state = 'closed') = (closed_at_ms IS NOT NULL))
);
CREATE UNIQUE INDEX incident_open ON incident (rule, kind, subject, cause) WHERE state <> 'closed';
CREATE INDEX incident_opened ON incident (opened_at_ms, id);
CREATE INDEX incident_escalation ON incident (escalate_at_ms) WHERE escalate_at_ms IS NOT NULL AND state = 'open';

-- The devices of an incident. A device of a group's incident has none of its own.
CREATE TABLE incident_member (
    incident_id     BIGINT NOT NULL REFERENCES incident (id) ON DELETE CASCADE,
    dk              BIGINT NOT NULL,
    joined_at_ms    BIGINT NOT NULL,
    left_at_ms      BIGINT,
    PRIMARY KEY (incident_id, dk)
);
CREATE INDEX incident_member_device ON incident_member (dk, incident_id);

-- What is to be told to whom. Once per incident, channel and kind.
CREATE TABLE notice (
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    incident_id     BIGINT,                        -- null: a test
    channel         TEXT    NOT NULL,
    kind            TEXT    NOT NULL CHECK (kind IN ('opened', 'recovered', 'escalated', 'test')),
    state           TEXT    NOT NULL CHECK (state IN ('pending', 'processing', 'sent', 'failed', 'dropped')),
    due_at_ms       BIGINT NOT NULL,
    lease_until_ms  BIGINT,
    attempts        BIGINT NOT NULL DEFAULT 0,
    error           TEXT    NOT NULL DEFAULT '',
    created_at_ms   BIGINT NOT NULL,
    ended_at_ms     BIGINT,
    CHECK ((state IN ('sent', 'failed', 'dropped')) = (ended_at_ms IS NOT NULL)),
    CHECK ((state = 'processing') = (lease_until_ms IS NOT NULL))
);
CREATE UNIQUE INDEX notice_once ON notice (incident_id, channel, kind) WHERE incident_id IS NOT NULL;
CREATE INDEX notice_due ON notice (due_at_ms) WHERE state IN ('pending', 'processing');
CREATE INDEX notice_ended ON notice (ended_at_ms) WHERE ended_at_ms IS NOT NULL;

-- People. Their sessions replace those that began with a key.
CREATE TABLE operator (
    name            TEXT    PRIMARY KEY,
    password_hash   TEXT    NOT NULL,               -- argon2id
    grants          TEXT    NOT NULL,               -- JSON: [{"role": "viewer", "group": null}], null: everything
    created_at_ms   BIGINT NOT NULL,
    updated_at_ms   BIGINT NOT NULL,
    disabled_at_ms  BIGINT
);

DROP TABLE web_session;
CREATE TABLE web_session (
    session_hash    TEXT    PRIMARY KEY CHECK (length(session_hash) = 64),
    operator        TEXT    NOT NULL,
    created_at_ms   BIGINT NOT NULL,
    expires_at_ms   BIGINT NOT NULL
);
CREATE INDEX web_session_expiry ON web_session (expires_at_ms);
CREATE INDEX web_session_operator ON web_session (operator);

ALTER TABLE api_key ADD COLUMN expires_at_ms BIGINT;             -- null: until revoked
ALTER TABLE api_key ADD COLUMN scopes TEXT NOT NULL DEFAULT '[]'; -- JSON list of cloud.rules.access.SCOPES; empty: all
ALTER TABLE api_key ADD COLUMN groups TEXT NOT NULL DEFAULT '[]'; -- JSON list of groups; empty: all

-- How devices are let in: by a code that works once, or by a key on prepared cards.
CREATE TABLE enroll_code (
    code_hash       TEXT    PRIMARY KEY CHECK (length(code_hash) = 64),
    device_id       TEXT,                           -- null: as the device calls itself
    site            TEXT,
    groups          TEXT    NOT NULL DEFAULT '[]',
    tags            TEXT    NOT NULL DEFAULT '[]',
    created_by      TEXT    NOT NULL,
    created_at_ms   BIGINT NOT NULL,
    expires_at_ms   BIGINT NOT NULL,
    used_at_ms      BIGINT,
    used_by         TEXT                            -- the device
);
CREATE INDEX enroll_code_expiry ON enroll_code (expires_at_ms);

CREATE TABLE fleet_key (
    key_hash        TEXT    PRIMARY KEY CHECK (length(key_hash) = 64),
    name            TEXT    NOT NULL UNIQUE,
    site            TEXT,
    groups          TEXT    NOT NULL DEFAULT '[]',
    tags            TEXT    NOT NULL DEFAULT '[]',
    auto_accept     BIGINT NOT NULL DEFAULT 0 CHECK (auto_accept IN (0, 1)),
    devices_max     BIGINT,
    created_by      TEXT    NOT NULL,
    created_at_ms   BIGINT NOT NULL,
    expires_at_ms   BIGINT,
    revoked_at_ms   BIGINT
);

-- A device that asks to be let in. Its token is its own secret from the start: only the hash is told.
CREATE TABLE enroll_request (
    id              TEXT    PRIMARY KEY,
    device_id       TEXT    NOT NULL,
    token_hash      TEXT    NOT NULL UNIQUE CHECK (length(token_hash) = 64),
    fleet_key       TEXT    NOT NULL,
    state           TEXT    NOT NULL CHECK (state IN ('pending', 'accepted', 'rejected')),
    known           BIGINT NOT NULL CHECK (known IN (0, 1)),  -- a device of this name is enrolled: is it the same?
    hardware        TEXT    NOT NULL,               -- JSON, as the device says
    address         TEXT    NOT NULL,
    first_at_ms     BIGINT NOT NULL,
    last_at_ms      BIGINT NOT NULL,
    decided_at_ms   BIGINT,
    decided_by      TEXT,
    CHECK ((state = 'pending') = (decided_at_ms IS NULL))
);
CREATE INDEX enroll_request_pending ON enroll_request (first_at_ms) WHERE state = 'pending';
CREATE INDEX enroll_request_device ON enroll_request (device_id);
