-- name: put_group
INSERT INTO device_group (name, kind, parent, calendar, learners, note, created_at_ms, updated_at_ms)
VALUES (:name, :kind, :parent, :calendar, :learners, :note, :now_ms, :now_ms)
ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, parent = excluded.parent, calendar = excluded.calendar,
    learners = excluded.learners, note = excluded.note, updated_at_ms = excluded.updated_at_ms

-- name: tags_of_device
SELECT tag FROM device_tag WHERE dk = :dk ORDER BY tag

-- name: leave_regions_of_site
DELETE FROM group_member
WHERE kind = 'region' AND dk IN (SELECT m.dk FROM group_member AS m WHERE m.name = :site AND m.kind = 'site')

-- name: join_region_of_site
INSERT INTO group_member (dk, name, kind)
SELECT m.dk, g.parent, 'region' FROM group_member AS m JOIN device_group AS g ON g.name = m.name
WHERE m.name = :site AND m.kind = 'site' AND g.parent IS NOT NULL

-- name: leave_group
DELETE FROM group_member WHERE name = :name

-- name: orphan_sites
UPDATE device_group SET parent = NULL WHERE parent = :name

-- name: drop_group
DELETE FROM device_group WHERE name = :name

-- name: leave_all_groups
DELETE FROM group_member WHERE dk = :dk

-- name: retag
-- Devices that have the new tag already keep it once.
UPDATE device_tag SET tag = :new WHERE tag = :old
  AND NOT EXISTS (SELECT 1 FROM device_tag AS t WHERE t.dk = device_tag.dk AND t.tag = :new)

-- name: drop_tag
DELETE FROM device_tag WHERE tag = :old

-- name: drop_tags
DELETE FROM device_tag WHERE dk = :dk

-- name: describe_device
UPDATE device SET label = coalesce(CAST(:label AS TEXT), label), note = coalesce(CAST(:note AS TEXT), note)
WHERE dk = :dk
