-- name: adopt_standings
-- Devices that were let in by an older service.
INSERT INTO device_standing (dk, since_ms)
SELECT d.dk, d.enrolled_at_ms FROM device AS d
WHERE NOT EXISTS (SELECT 1 FROM device_standing AS h WHERE h.dk = d.dk)

-- name: standing_of
SELECT * FROM device_standing WHERE dk = :dk

-- name: mute_by
UPDATE device_standing SET muted_by = :muted_by, mute_note = :mute_note WHERE dk = :dk

-- name: transitions_of
SELECT id, old_state, new_state, reason, detail, at_ms FROM device_transition
WHERE dk = :dk AND id < :before_id ORDER BY id DESC LIMIT :row_limit OFFSET :row_offset

-- name: timeline_states
SELECT id, old_state, new_state, reason, detail, at_ms FROM device_transition
WHERE dk = :dk AND at_ms <= :at_ms ORDER BY at_ms DESC, id DESC LIMIT :row_limit

-- name: transitions_count
SELECT count(*) FROM device_transition WHERE dk = :dk

-- name: drop_transitions
DELETE FROM device_transition WHERE at_ms < :before_ms

-- name: standing_states
SELECT state, count(*) AS devices FROM device_standing GROUP BY state

-- name: site_calendars
-- The calendar of each device that has another than the default: its site's own, else that of the site's region.
SELECT m.dk, coalesce(site.calendar, region.calendar) AS calendar
FROM group_member AS m
JOIN device_group AS site ON site.name = m.name
LEFT JOIN device_group AS region ON region.name = site.parent
WHERE m.kind = 'site' AND coalesce(site.calendar, region.calendar) IS NOT NULL

-- name: heard_longest_ago
SELECT dk FROM device_state WHERE shut_out = 0 ORDER BY last_seen_at_ms, dk LIMIT :row_limit
