-- name: join_groups
INSERT INTO group_member (dk, name, kind) VALUES (?, ?, ?)

-- name: add_tags
INSERT INTO device_tag (dk, tag) VALUES (?, ?) ON CONFLICT DO NOTHING

-- name: drop_tags_some
DELETE FROM device_tag WHERE dk = ? AND tag = ?
