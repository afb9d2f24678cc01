-- PostgreSQL: a batch is one statement with one array per column.

-- name: known_tracks
SELECT e.dk, e.user_id, e.event_id, e.digest, e.received_at_ms, e.batch_id
FROM unnest($1::bigint[], $2::text[], $3::text[]) AS k (dk, user_id, event_id)
JOIN telemetry AS e ON e.event_id = k.event_id AND e.dk = k.dk AND e.user_id = k.user_id

-- name: known_attempts
SELECT e.id, e.digest FROM unnest($1::text[]) AS k (id) JOIN attempt_events AS e ON e.id = k.id

-- name: add_tracks
INSERT INTO telemetry (
    dk, user_id, event_id, digest, event_type, event_data, client_ts_ms, batch_id, stream, device_seq, boot_id,
    boottime_ms, wall_ms, clock_trusted, received_at_ms
)
SELECT * FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::text[], $7::bigint[], $8::text[],
    $9::text[], $10::bigint[], $11::text[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[]
)

-- name: add_attempts
INSERT INTO attempt_events (
    id, event_version, event_type, event_ts, client_ts, seq, session_id, user_id, question_id, source, payload_json,
    digest, dk, stream, device_seq, boot_id, boottime_ms, wall_ms, clock_trusted
)
SELECT * FROM unnest(
    $1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::text[],
    $9::text[], $10::text[], $11::text[], $12::bytea[], $13::bigint[], $14::text[], $15::bigint[], $16::text[],
    $17::bigint[], $18::bigint[], $19::bigint[]
)

-- name: log_batches
INSERT INTO batch_log (
    dk, user_id, batch_id, items, successful, failed, conflicts, duplicates, received_at_ms, duration_ms, errors,
    conflict_details
)
SELECT * FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
    $9::bigint[], $10::bigint[], $11::text[], $12::text[]
)
