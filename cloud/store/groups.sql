-- name: put_group
INSERT INTO device_group (name, kind, parent, calendar, learners, note, created_at_ms, updated_at_ms)
VALUES (:name, :kind, :parent, :calendar, :learners, :note, :now_ms, :now_ms)
ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, parent = excluded.parent, calendar = excluded.calendar,
    learners = excluded.learners, note = excluded.note, updated_at_ms = excluded.updated_at_ms

-- name: tags_of_device
SELECT tag FROM device_tag WHERE dk = :dk ORDER BY tag
