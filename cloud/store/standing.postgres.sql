-- name: standings_due
-- PostgreSQL only: SKIP LOCKED lets the assessors of two services work side by side.
SELECT h.*, s.last_seen_at_ms AS seen_ms, s.events_total AS events, s.alert_opened_at_ms AS alert_at_ms,
       s.consecutive_failures AS failures, s.last_error_code AS error_code, s.last_queue_depth AS queue_depth, s.shut_out
FROM device_standing AS h JOIN device_state AS s ON s.dk = h.dk
WHERE h.dk > :after AND (
    coalesce(s.last_seen_at_ms, 0) <> h.heard_ms OR s.events_total <> h.heard_events OR h.due_at_ms <= :now_ms
    OR s.shut_out <> CASE WHEN h.under = 'retired' THEN 1 ELSE 0 END)
ORDER BY h.dk LIMIT :row_limit
FOR UPDATE OF h SKIP LOCKED

-- name: standings_for_update
SELECT h.* FROM device_standing AS h WHERE h.dk = ANY ($1::bigint[]) ORDER BY h.dk FOR UPDATE

-- name: save_standings
UPDATE device_standing AS h SET
    state = n.state, under = n.under, since_ms = n.since_ms, reason = n.reason,
    detail = n.detail, muted_until_ms = n.muted_until_ms, flap_score = n.flap_score, flap_at_ms = n.flap_at_ms,
    flapping = n.flapping::int, heard_ms = n.heard_ms, heard_events = n.heard_events, due_at_ms = n.due_at_ms,
    rhythm = n.rhythm, backlog = n.backlog, backlog_at_ms = n.backlog_at_ms, drain_per_s = n.drain_per_s,
    clear_at_ms = n.clear_at_ms
FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::bigint[], $8::float8[],
    $9::bigint[], $10::bool[], $11::bigint[], $12::bigint[], $13::bigint[], $14::text[], $15::bigint[],
    $16::bigint[], $17::float8[], $18::bigint[]
) AS n (
    dk, state, under, since_ms, reason, detail, muted_until_ms, flap_score, flap_at_ms, flapping, heard_ms,
    heard_events, due_at_ms, rhythm, backlog, backlog_at_ms, drain_per_s, clear_at_ms
)
WHERE h.dk = n.dk

-- name: keep_standings
-- Those whose state is what it was.
UPDATE device_standing AS h SET
    under = n.under, muted_until_ms = n.muted_until_ms, flap_score = n.flap_score, flap_at_ms = n.flap_at_ms,
    flapping = n.flapping::int, heard_ms = n.heard_ms, heard_events = n.heard_events, due_at_ms = n.due_at_ms,
    rhythm = n.rhythm, backlog = n.backlog, backlog_at_ms = n.backlog_at_ms, drain_per_s = n.drain_per_s,
    clear_at_ms = n.clear_at_ms
FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::bigint[], $8::float8[],
    $9::bigint[], $10::bool[], $11::bigint[], $12::bigint[], $13::bigint[], $14::text[], $15::bigint[],
    $16::bigint[], $17::float8[], $18::bigint[]
) AS n (
    dk, state, under, since_ms, reason, detail, muted_until_ms, flap_score, flap_at_ms, flapping, heard_ms,
    heard_events, due_at_ms, rhythm, backlog, backlog_at_ms, drain_per_s, clear_at_ms
)
WHERE h.dk = n.dk

-- name: add_transitions
INSERT INTO device_transition (dk, old_state, new_state, reason, detail, at_ms)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[])
