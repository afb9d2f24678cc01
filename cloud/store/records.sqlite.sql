-- SQLite: keys of a group come as one JSON array of arrays in :rows, see events.sqlite.sql.

-- name: records_lock
-- The write transaction already keeps everyone else out.
SELECT value FROM generation WHERE name = 'records'

-- name: known_records
SELECT r.type, r.id, r.state, r.fields, r.deleted, r.purged, r.change, r.created_at_ms, r.updated_at_ms
FROM json_each(:rows) AS k CROSS JOIN record AS r ON r.type = k.value ->> 0 AND r.id = k.value ->> 1

-- name: known_record_scopes
SELECT s.type, s.id, s.kind, s.value, s.gone
FROM json_each(:rows) AS k CROSS JOIN record_scope AS s ON s.type = k.value ->> 0 AND s.id = k.value ->> 1

-- name: known_record_writers
SELECT w.writer, w.dk, w.name FROM json_each(:rows) AS k CROSS JOIN record_writer AS w ON w.writer = k.value ->> 0

-- name: known_subscriptions
SELECT s.dk, s.kind, s.value FROM json_each(:rows) AS k CROSS JOIN subscription AS s ON s.dk = k.value ->> 0

-- name: known_conflicts
SELECT c.id FROM json_each(:rows) AS k CROSS JOIN conflict AS c ON c.id = k.value ->> 0

-- name: open_conflicts_of
SELECT c.id, c.type, c.record_id FROM json_each(:rows) AS k
CROSS JOIN conflict AS c ON c.type = k.value ->> 0 AND c.record_id = k.value ->> 1 AND c.state = 'open'

-- name: known_devices
SELECT d.dk, d.device_id FROM json_each(:rows) AS k CROSS JOIN device AS d ON d.dk = k.value ->> 0

-- name: save_records
INSERT INTO record (type, id, state, fields, deleted, change, echo, created_at_ms, updated_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (type, id) DO UPDATE SET
    state = excluded.state, fields = excluded.fields, deleted = excluded.deleted, change = excluded.change,
    echo = excluded.echo, updated_at_ms = excluded.updated_at_ms

-- name: save_record_scopes
INSERT INTO record_scope (type, id, kind, value, gone) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (type, id, kind, value) DO UPDATE SET gone = excluded.gone

-- name: add_record_writers
INSERT INTO record_writer (writer, dk, name) VALUES (?, ?, ?)
ON CONFLICT (writer) DO NOTHING

-- name: add_conflicts
INSERT INTO conflict (id, type, record_id, field, state, decision, explanation, dk, created_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING

-- name: resolve_conflicts
UPDATE conflict SET state = 'resolved', resolved_at_ms = ?, resolved_by = ?, resolution = ?
WHERE id = ? AND state = 'open'

-- name: standing_conflicts_of
SELECT ord, id, type, record_id, field, state, explanation FROM (
    SELECT c.*, row_number() OVER (PARTITION BY c.type, c.record_id ORDER BY c.ord DESC) AS place
    FROM json_each(:rows) AS k
    CROSS JOIN conflict AS c ON c.type = k.value ->> 0 AND c.record_id = k.value ->> 1 AND c.state <> 'resolved'
) WHERE place <= 20
