-- Records: what each says, whom it concerns, whose its writers are, and what was decided between them.

-- name: records_advance
-- The feed's order: the row stays locked until the commit, so no change is ever seen before an earlier one.
UPDATE generation SET value = value + :count WHERE name = 'records' RETURNING value

-- name: record_by_id
SELECT type, id, state, fields, deleted, purged, change, created_at_ms, updated_at_ms FROM record
WHERE type = :type AND id = :id

-- name: records_page
SELECT type, id, state, fields, deleted, purged, change, created_at_ms, updated_at_ms FROM record
WHERE type = :type AND id > :after AND purged = 0 AND (deleted = 0 OR :deleted = 1)
ORDER BY id LIMIT :row_limit

-- name: records_page_of_device
-- What a device is entitled to: it wrote it, or subscribes to whom it concerns.
SELECT type, id, state, fields, deleted, purged, change, created_at_ms, updated_at_ms FROM record
WHERE type = :type AND id > :after AND purged = 0 AND (deleted = 0 OR :deleted = 1) AND EXISTS (
    SELECT 1 FROM record_scope AS s WHERE s.type = record.type AND s.id = record.id AND s.gone = 0 AND (
        (s.kind = 'device' AND s.value = :device_id)
        OR EXISTS (SELECT 1 FROM subscription AS b WHERE b.dk = :dk AND b.kind = s.kind AND b.value = s.value)
    )
)
ORDER BY id LIMIT :row_limit

-- name: records_count
SELECT count(*) FROM record WHERE type = :type AND purged = 0 AND (deleted = 0 OR :deleted = 1)

-- name: records_count_of_device
SELECT count(*) FROM record WHERE type = :type AND purged = 0 AND (deleted = 0 OR :deleted = 1) AND EXISTS (
    SELECT 1 FROM record_scope AS s WHERE s.type = record.type AND s.id = record.id AND s.gone = 0 AND (
        (s.kind = 'device' AND s.value = :device_id)
        OR EXISTS (SELECT 1 FROM subscription AS b WHERE b.dk = :dk AND b.kind = s.kind AND b.value = s.value)
    )
)

-- name: record_types_kept
SELECT DISTINCT type FROM record

-- name: record_forms
SELECT type, by_field FROM record_form

-- name: save_record_form
INSERT INTO record_form (type, by_field) VALUES (:type, :by_field)
ON CONFLICT (type) DO UPDATE SET by_field = excluded.by_field
