-- PostgreSQL: keys of a group come as one array per column.

-- name: states_for_update
-- PostgreSQL only: FOR UPDATE, in one order, so that two services never judge one device at once and never deadlock.
SELECT * FROM device_state WHERE dk = ANY($1::bigint[]) ORDER BY dk FOR UPDATE

-- name: known_syncs
SELECT e.dk, e.event_id, e.digest, e.occurred_at_ms, e.received_at_ms, e.status, e.consecutive_failures, e.time_flags
FROM unnest($1::bigint[], $2::text[]) AS k (dk, event_id)
JOIN sync_event AS e ON e.dk = k.dk AND e.event_id = k.event_id

-- name: known_messages
SELECT m.dk, m.user_id, m.item_id, m.digest
FROM unnest($1::bigint[], $2::text[], $3::text[]) AS k (dk, user_id, item_id)
JOIN message AS m ON m.dk = k.dk AND m.user_id = k.user_id AND m.item_id = k.item_id

-- name: known_rejected
-- A device that sends again what was refused is not one whose database was set back.
SELECT r.dk, r.item_id, r.digest, r.code, r.detail
FROM unnest($1::bigint[], $2::text[]) AS k (dk, item_id)
JOIN rejected_item AS r ON r.dk = k.dk AND r.item_id = k.item_id AND r.code <> 'seq-conflict'

-- name: known_marks
SELECT s.dk, s.stream, s.received_through
FROM unnest($1::bigint[], $2::text[]) AS k (dk, stream)
JOIN stream_mark AS s ON s.dk = k.dk AND s.stream = k.stream

-- name: known_ahead
SELECT s.dk, s.stream, s.seq
FROM unnest($1::bigint[], $2::text[]) AS k (dk, stream)
JOIN stream_ahead AS s ON s.dk = k.dk AND s.stream = k.stream

-- name: add_syncs
INSERT INTO sync_event (
    dk, event_id, digest, occurred_at_ms, received_at_ms, sent_timestamp, files_synced, errors, speed_mbps,
    status, consecutive_failures, time_flags, seq, boot_id, boottime_ms, error_code, bytes_sent, duration_ms,
    queue_depth
)
SELECT * FROM unnest(
    $1::bigint[], $2::text[], $3::bytea[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[], $8::bigint[],
    $9::float8[], $10::text[], $11::bigint[], $12::int[], $13::bigint[], $14::text[], $15::bigint[],
    $16::text[], $17::bigint[], $18::bigint[], $19::bigint[]
)

-- name: add_messages
INSERT INTO message (
    dk, user_id, item_id, item_type, stream, seq, digest, body, boot_id, boottime_ms, wall_ms, clock_trusted,
    received_at_ms
)
SELECT * FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bytea[], $8::text[],
    $9::text[], $10::bigint[], $11::bigint[], $12::int[], $13::bigint[]
)

-- name: add_rejected
-- The same item refused again is kept once.
INSERT INTO rejected_item (
    dk, item_id, item_type, stream, seq, digest, code, detail, body, received_at_ms
)
SELECT * FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bytea[], $7::text[], $8::text[],
    $9::text[], $10::bigint[]
)
ON CONFLICT DO NOTHING

-- name: save_states
UPDATE device_state AS s SET
    events_total = v.events_total, success_total = v.success_total, partial_total = v.partial_total,
    failed_total = v.failed_total, consecutive_failures = v.consecutive_failures,
    files_synced_total = v.files_synced_total, last_status = v.last_status,
    last_event_at_ms = v.last_event_at_ms, last_success_at_ms = v.last_success_at_ms,
    last_failed_at_ms = v.last_failed_at_ms, last_error_code = v.last_error_code,
    last_speed_mbps = v.last_speed_mbps, last_queue_depth = v.last_queue_depth,
    alert_opened_at_ms = v.alert_opened_at_ms, last_seen_at_ms = v.last_seen_at_ms,
    updated_at_ms = v.updated_at_ms
FROM unnest(
    $1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[],
    $8::bigint[], $9::bigint[], $10::bigint[], $11::text[], $12::float8[], $13::bigint[], $14::bigint[],
    $15::bigint[], $16::bigint[], $17::bigint[]
) AS v (
    events_total, success_total, partial_total, failed_total, consecutive_failures, files_synced_total,
    last_status, last_event_at_ms, last_success_at_ms, last_failed_at_ms, last_error_code, last_speed_mbps,
    last_queue_depth, alert_opened_at_ms, last_seen_at_ms, updated_at_ms, dk
)
WHERE s.dk = v.dk

-- name: save_marks
INSERT INTO stream_mark (dk, stream, received_through)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[])
ON CONFLICT (dk, stream) DO UPDATE SET received_through = excluded.received_through

-- name: add_ahead
INSERT INTO stream_ahead (dk, stream, seq) SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[])

-- name: drop_ahead
DELETE FROM stream_ahead AS s USING unnest($1::bigint[], $2::text[], $3::bigint[]) AS v (dk, stream, mark)
WHERE s.dk = v.dk AND s.stream = v.stream AND s.seq <= v.mark

-- name: touch_devices
UPDATE device_state AS s SET last_seen_at_ms = v.seen
FROM unnest($1::bigint[], $2::bigint[]) AS v (seen, dk) WHERE s.dk = v.dk

-- name: end_faults
UPDATE device_fault SET since_ms = NULL WHERE dk = ANY ($1::bigint[]) AND since_ms IS NOT NULL

-- name: add_faults
INSERT INTO device_fault AS f (dk, code, first_seen_ms, last_seen_ms, count, since_ms)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
ON CONFLICT (dk, code) DO UPDATE SET last_seen_ms = excluded.last_seen_ms, count = f.count + excluded.count,
    since_ms = coalesce(f.since_ms, excluded.since_ms)
