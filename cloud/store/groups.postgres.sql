-- name: join_groups
INSERT INTO group_member (dk, name, kind) SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[])

-- name: add_tags
INSERT INTO device_tag (dk, tag) SELECT * FROM unnest($1::bigint[], $2::text[]) ON CONFLICT DO NOTHING

-- name: drop_tags_some
DELETE FROM device_tag AS t USING unnest($1::bigint[], $2::text[]) AS k (dk, tag) WHERE t.dk = k.dk AND t.tag = k.tag
