-- SQLite: keys of a group come as one JSON array of arrays in :rows, see events.sqlite.sql.

-- name: known_tracks
SELECT e.dk, e.user_id, e.event_id, e.digest, e.received_at_ms, e.batch_id
FROM json_each(:rows) AS k
CROSS JOIN telemetry AS e ON e.event_id = k.value ->> 2 AND e.dk = k.value ->> 0 AND e.user_id = k.value ->> 1

-- name: known_attempts
SELECT e.id, e.digest FROM json_each(:rows) AS k CROSS JOIN attempt_events AS e ON e.id = k.value ->> 0

-- name: add_tracks
INSERT INTO telemetry (
    dk, user_id, event_id, digest, event_type, event_data, client_ts_ms, batch_id, stream, device_seq, boot_id,
    boottime_ms, wall_ms, clock_trusted, received_at_ms
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: add_attempts
INSERT INTO attempt_events (
    id, event_version, event_type, event_ts, client_ts, seq, session_id, user_id, question_id, source, payload_json,
    digest, dk, stream, device_seq, boot_id, boottime_ms, wall_ms, clock_trusted
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: log_batches
INSERT INTO batch_log (
    dk, user_id, batch_id, items, successful, failed, conflicts, duplicates, received_at_ms, duration_ms, errors,
    conflict_details
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
