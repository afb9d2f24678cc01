-- name: webhook_add_events
INSERT INTO webhook_event (id, type, resource_type, resource_id, body, user_id, created_at_ms)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[])

-- name: webhook_event_ords
SELECT id, ord FROM webhook_event WHERE id = ANY($1::text[])

-- name: webhook_add_deliveries
-- WITH ORDINALITY: ids are the order within a resource, so they must rise as the rows were given.
INSERT INTO webhook_delivery (endpoint_id, event_ord, resource, kind, state, due_at_ms, created_at_ms)
SELECT endpoint_id, event_ord, resource, kind, state, due_at_ms, created_at_ms
FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[])
    WITH ORDINALITY AS v (endpoint_id, event_ord, resource, kind, state, due_at_ms, created_at_ms, place)
ORDER BY place

-- name: webhook_due
-- PostgreSQL only: SKIP LOCKED lets two dispatchers claim side by side; each takes only what has nothing unfinished
-- before it that it did not take as well, so that the order within a resource holds between them too.
SELECT d.id, d.resource, (
    SELECT max(b.id) FROM webhook_delivery AS b
    WHERE b.endpoint_id = d.endpoint_id AND b.resource = d.resource AND b.state IN ('pending', 'processing')
        AND b.id < d.id
) AS earlier
FROM webhook_delivery AS d
WHERE d.endpoint_id = :endpoint_id AND d.state = 'pending' AND d.due_at_ms <= :now_ms
ORDER BY d.due_at_ms, d.id LIMIT :row_limit FOR UPDATE OF d SKIP LOCKED

-- name: webhook_due_of_resource
SELECT d.id, d.resource, (
    SELECT max(b.id) FROM webhook_delivery AS b
    WHERE b.endpoint_id = d.endpoint_id AND b.resource = d.resource AND b.state IN ('pending', 'processing')
        AND b.id < d.id
) AS earlier
FROM webhook_delivery AS d
WHERE d.endpoint_id = :endpoint_id AND d.resource = :resource AND d.state = 'pending'
ORDER BY d.id LIMIT :row_limit FOR UPDATE OF d SKIP LOCKED

-- name: webhook_take
UPDATE webhook_delivery AS d SET state = 'processing', lease_until_ms = v.lease
FROM unnest($1::bigint[], $2::bigint[]) AS v (id, lease)
WHERE d.id = v.id AND d.state = 'pending'
RETURNING d.id, d.resource, d.attempts, d.due_at_ms, d.event_ord

-- name: webhook_bodies
SELECT ord, id, type, body FROM webhook_event WHERE ord = ANY($1::bigint[])

-- name: webhook_standing
SELECT id, state, due_at_ms FROM webhook_delivery WHERE id = ANY($1::bigint[])

-- name: webhook_defer
UPDATE webhook_delivery AS d SET due_at_ms = v.due
FROM unnest($1::bigint[], $2::bigint[]) AS v (id, due)
WHERE d.id = v.id AND d.state = 'pending'
RETURNING d.id

-- name: webhook_settle
-- Only who still has the lease may say what became of it.
UPDATE webhook_delivery AS d SET
    state = v.state, attempts = v.attempts, due_at_ms = v.due, lease_until_ms = NULL, status_code = v.status,
    error = v.error, ended_at_ms = v.ended
FROM unnest(
    $1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[], $8::bigint[]
) AS v (id, lease, state, due, status, error, ended, attempts)
WHERE d.id = v.id AND d.state = 'processing' AND d.lease_until_ms = v.lease
RETURNING d.id

-- name: webhook_release
UPDATE webhook_delivery AS d SET state = 'pending', lease_until_ms = NULL
FROM unnest($1::bigint[], $2::bigint[]) AS v (id, lease)
WHERE d.id = v.id AND d.state = 'processing' AND d.lease_until_ms = v.lease
RETURNING d.id

-- name: webhook_behind
-- What follows in a resource is due when the first one is. SKIP LOCKED: what another dispatcher looks at is left to it,
-- waiting for it could be mutual.
UPDATE webhook_delivery AS d SET due_at_ms = w.due
FROM (
    SELECT b.id, v.due
    FROM unnest($1::text[], $2::text[], $3::bigint[]) AS v (endpoint, resource, due)
    JOIN webhook_delivery AS b ON b.endpoint_id = v.endpoint AND b.resource = v.resource
        AND b.state IN ('pending', 'processing') AND b.state = 'pending' AND b.due_at_ms <> v.due
    ORDER BY b.id FOR UPDATE OF b SKIP LOCKED
) AS w
WHERE d.id = w.id
RETURNING d.id

-- name: webhook_add_attempts
INSERT INTO webhook_attempt (delivery_id, endpoint_id, at_ms, duration_ms, status_code, error, answer)
SELECT * FROM unnest(
    $1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[]
)
RETURNING id

-- name: webhook_attempts_of
SELECT delivery_id, at_ms, duration_ms, status_code, error, answer FROM webhook_attempt
WHERE delivery_id = ANY($1::bigint[]) ORDER BY delivery_id, id

-- name: webhook_states
SELECT id, state, reason FROM webhook_endpoint WHERE id = ANY($1::text[])

-- name: webhook_device_names
SELECT dk, device_id FROM device WHERE dk = ANY($1::bigint[])
