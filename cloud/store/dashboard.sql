-- Reads of the pages that nobody else has.

-- name: vitals_shown
SELECT body, at_ms, received_at_ms FROM device_vitals WHERE dk = :dk

-- name: commands_shown
SELECT id, kind, state, detail, created_by, created_at_ms, sent_at_ms, ended_at_ms FROM device_command
WHERE dk = :dk ORDER BY created_at_ms DESC, id LIMIT :row_limit

-- name: incidents_shown
-- All of a device, the closed ones too.
SELECT i.id, i.kind, i.subject, i.cause, i.state, i.opened_at_ms, i.closed_at_ms, i.acknowledged_at_ms,
       i.acknowledged_by
FROM incident_member AS m JOIN incident AS i ON i.id = m.incident_id
WHERE m.dk = :dk ORDER BY i.id DESC LIMIT :row_limit
