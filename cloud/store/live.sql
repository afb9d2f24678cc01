-- name: fleet_changed
-- Something that a page shows has changed.
UPDATE generation SET value = value + 1 WHERE name = 'fleet'

-- name: fleet_generation
SELECT value FROM generation WHERE name = 'fleet'
