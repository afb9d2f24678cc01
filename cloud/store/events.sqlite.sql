-- SQLite: keys of a group come as one JSON array of arrays in :rows; CROSS JOIN keeps SQLite from scanning the table.

-- name: states_for_update
-- The write transaction already keeps everyone else out.
SELECT s.* FROM json_each(:rows) AS k CROSS JOIN device_state AS s ON s.dk = k.value ->> 0

-- name: known_syncs
SELECT e.dk, e.event_id, e.digest, e.occurred_at_ms, e.received_at_ms, e.status, e.consecutive_failures, e.time_flags
FROM json_each(:rows) AS k
CROSS JOIN sync_event AS e ON e.dk = k.value ->> 0 AND e.event_id = k.value ->> 1

-- name: known_messages
SELECT m.dk, m.user_id, m.item_id, m.digest
FROM json_each(:rows) AS k
CROSS JOIN message AS m ON m.dk = k.value ->> 0 AND m.user_id = k.value ->> 1 AND m.item_id = k.value ->> 2

-- name: known_rejected
-- A device that sends again what was refused is not one whose database was set back.
SELECT r.dk, r.item_id, r.digest, r.code, r.detail
FROM json_each(:rows) AS k
CROSS JOIN rejected_item AS r ON r.dk = k.value ->> 0 AND r.item_id = k.value ->> 1 AND r.code <> 'seq-conflict'

-- name: known_marks
SELECT s.dk, s.stream, s.received_through
FROM json_each(:rows) AS k
CROSS JOIN stream_mark AS s ON s.dk = k.value ->> 0 AND s.stream = k.value ->> 1

-- name: known_ahead
SELECT s.dk, s.stream, s.seq
FROM json_each(:rows) AS k
CROSS JOIN stream_ahead AS s ON s.dk = k.value ->> 0 AND s.stream = k.value ->> 1

-- name: add_syncs
INSERT INTO sync_event (
    dk, event_id, digest, occurred_at_ms, received_at_ms, sent_timestamp, files_synced, errors, speed_mbps,
    status, consecutive_failures, time_flags, seq, boot_id, boottime_ms, error_code, bytes_sent, duration_ms,
    queue_depth
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: add_messages
INSERT INTO message (
    dk, user_id, item_id, item_type, stream, seq, digest, body, boot_id, boottime_ms, wall_ms, clock_trusted,
    received_at_ms
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: add_rejected
-- The same item refused again is kept once.
INSERT INTO rejected_item (
    dk, item_id, item_type, stream, seq, digest, code, detail, body, received_at_ms
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING

-- name: save_states
UPDATE device_state SET
    events_total = ?, success_total = ?, partial_total = ?, failed_total = ?, consecutive_failures = ?,
    files_synced_total = ?, last_status = ?, last_event_at_ms = ?, last_success_at_ms = ?,
    last_failed_at_ms = ?, last_error_code = ?, last_speed_mbps = ?, last_queue_depth = ?,
    alert_opened_at_ms = ?, last_seen_at_ms = ?, updated_at_ms = ?
WHERE dk = ?

-- name: save_marks
INSERT INTO stream_mark (dk, stream, received_through) VALUES (?, ?, ?)
ON CONFLICT (dk, stream) DO UPDATE SET received_through = excluded.received_through

-- name: add_ahead
INSERT INTO stream_ahead (dk, stream, seq) VALUES (?, ?, ?)

-- name: drop_ahead
DELETE FROM stream_ahead WHERE dk = ? AND stream = ? AND seq <= ?

-- name: touch_devices
UPDATE device_state SET last_seen_at_ms = ? WHERE dk = ?

-- name: end_faults
UPDATE device_fault SET since_ms = NULL WHERE dk = ? AND since_ms IS NOT NULL

-- name: add_faults
INSERT INTO device_fault (dk, code, first_seen_ms, last_seen_ms, count, since_ms) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (dk, code) DO UPDATE SET last_seen_ms = excluded.last_seen_ms, count = count + excluded.count,
    since_ms = coalesce(since_ms, excluded.since_ms)
