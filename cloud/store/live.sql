-- name: fleet_changed
-- Something that a page shows has changed.
UPDATE generation SET value = value + 1 WHERE name = 'fleet'

-- name: live_marks
SELECT (SELECT value FROM generation WHERE name = 'fleet') AS fleet,
       (SELECT coalesce(max(id), 0) FROM sync_event) AS events
