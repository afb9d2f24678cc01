-- PostgreSQL: a batch is one statement with one array per column.

-- name: records_lock
-- PostgreSQL only: taken before any record is read, so that two services never change one record at once, also one
-- that is not there yet.
SELECT value FROM generation WHERE name = 'records' FOR UPDATE

-- name: known_records
SELECT r.type, r.id, r.state, r.fields, r.deleted, r.purged, r.change, r.created_at_ms, r.updated_at_ms
FROM unnest($1::text[], $2::text[]) AS k (type, id) JOIN record AS r ON r.type = k.type AND r.id = k.id

-- name: known_record_scopes
SELECT s.type, s.id, s.kind, s.value, s.gone
FROM unnest($1::text[], $2::text[]) AS k (type, id) JOIN record_scope AS s ON s.type = k.type AND s.id = k.id

-- name: known_record_writers
SELECT w.writer, w.dk, w.name FROM unnest($1::text[]) AS k (writer) JOIN record_writer AS w ON w.writer = k.writer

-- name: known_subscriptions
SELECT dk, kind, value FROM subscription WHERE dk = ANY($1::bigint[])

-- name: known_conflicts
SELECT c.id FROM unnest($1::text[]) AS k (id) JOIN conflict AS c ON c.id = k.id

-- name: open_conflicts_of
SELECT c.id, c.type, c.record_id FROM unnest($1::text[], $2::text[]) AS k (type, id)
JOIN conflict AS c ON c.type = k.type AND c.record_id = k.id AND c.state = 'open'

-- name: known_devices
SELECT dk, device_id FROM device WHERE dk = ANY($1::bigint[])

-- name: save_records
INSERT INTO record (type, id, state, fields, deleted, change, echo, created_at_ms, updated_at_ms)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::text[], $8::bigint[],
    $9::bigint[]
)
ON CONFLICT (type, id) DO UPDATE SET
    state = excluded.state, fields = excluded.fields, deleted = excluded.deleted, change = excluded.change,
    echo = excluded.echo, updated_at_ms = excluded.updated_at_ms

-- name: save_record_scopes
INSERT INTO record_scope (type, id, kind, value, gone)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])
ON CONFLICT (type, id, kind, value) DO UPDATE SET gone = excluded.gone

-- name: add_record_writers
INSERT INTO record_writer (writer, dk, name) SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[])
ON CONFLICT (writer) DO NOTHING

-- name: add_conflicts
INSERT INTO conflict (id, type, record_id, field, state, decision, explanation, dk, created_at_ms)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::bigint[]
)
ON CONFLICT (id) DO NOTHING

-- name: resolve_conflicts
UPDATE conflict AS c SET
    state = 'resolved', resolved_at_ms = v.at_ms, resolved_by = v.actor, resolution = v.resolution
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) AS v (at_ms, actor, resolution, id)
WHERE c.id = v.id AND c.state = 'open'

-- name: standing_conflicts_of
SELECT ord, id, type, record_id, field, state, explanation FROM (
    SELECT c.*, row_number() OVER (PARTITION BY c.type, c.record_id ORDER BY c.ord DESC) AS place
    FROM unnest($1::text[], $2::text[]) AS k (type, id)
    JOIN conflict AS c ON c.type = k.type AND c.record_id = k.id AND c.state <> 'resolved'
) AS standing WHERE place <= 20
