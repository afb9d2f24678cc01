-- name: add_commands
INSERT INTO device_command (id, dk, kind, state, created_by, created_at_ms) VALUES (?, ?, ?, 'pending', ?, ?)

-- name: end_commands
UPDATE device_command SET state = ?1, detail = ?2, ended_at_ms = ?3
WHERE id = ?4 AND dk = ?5 AND state IN ('pending', 'sent')

-- name: save_vitals
INSERT INTO device_vitals (
    dk, body, at_ms, received_at_ms, version, disk_free_percent, temperature_c, throttled, clock_trusted
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (dk) DO UPDATE SET
    body = excluded.body, at_ms = excluded.at_ms, received_at_ms = excluded.received_at_ms, version = excluded.version,
    disk_free_percent = excluded.disk_free_percent, temperature_c = excluded.temperature_c,
    throttled = excluded.throttled, clock_trusted = excluded.clock_trusted
