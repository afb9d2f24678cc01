-- SQLite: rows come as one JSON text, so that a group of them is one statement and not one for each row.

-- name: webhook_add_events
INSERT INTO webhook_event (id, type, resource_type, resource_id, body, user_id, created_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?)

-- name: webhook_event_ords
SELECT e.id, e.ord FROM json_each(:rows) AS k JOIN webhook_event AS e ON e.id = k.value ->> 0

-- name: webhook_add_deliveries
INSERT INTO webhook_delivery (endpoint_id, event_ord, resource, kind, state, due_at_ms, created_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?)

-- name: webhook_due
-- `earlier`: the unfinished delivery of the same resource right before it, which has to go first.
SELECT d.id, d.resource, (
    SELECT max(b.id) FROM webhook_delivery AS b
    WHERE b.endpoint_id = d.endpoint_id AND b.resource = d.resource AND b.state IN ('pending', 'processing')
        AND b.id < d.id
) AS earlier
FROM webhook_delivery AS d
WHERE d.endpoint_id = :endpoint_id AND d.state = 'pending' AND d.due_at_ms <= :now_ms
ORDER BY d.due_at_ms, d.id LIMIT :row_limit

-- name: webhook_due_of_resource
SELECT d.id, d.resource, (
    SELECT max(b.id) FROM webhook_delivery AS b
    WHERE b.endpoint_id = d.endpoint_id AND b.resource = d.resource AND b.state IN ('pending', 'processing')
        AND b.id < d.id
) AS earlier
FROM webhook_delivery AS d
WHERE d.endpoint_id = :endpoint_id AND d.resource = :resource AND d.state IN ('pending', 'processing')
    AND d.state = 'pending'
ORDER BY d.id LIMIT :row_limit

-- name: webhook_take
UPDATE webhook_delivery SET state = 'processing', lease_until_ms = v.lease
FROM (SELECT value ->> 0 AS id, value ->> 1 AS lease FROM json_each(:rows)) AS v
WHERE webhook_delivery.id = v.id AND webhook_delivery.state = 'pending'
RETURNING webhook_delivery.id, resource, attempts, due_at_ms, event_ord

-- name: webhook_bodies
SELECT e.ord, e.id, e.type, e.body FROM json_each(:rows) AS k JOIN webhook_event AS e ON e.ord = k.value ->> 0

-- name: webhook_standing
SELECT d.id, d.state, d.due_at_ms FROM json_each(:rows) AS k JOIN webhook_delivery AS d ON d.id = k.value ->> 0

-- name: webhook_defer
UPDATE webhook_delivery SET due_at_ms = v.due
FROM (SELECT value ->> 0 AS id, value ->> 1 AS due FROM json_each(:rows)) AS v
WHERE webhook_delivery.id = v.id AND webhook_delivery.state = 'pending'
RETURNING webhook_delivery.id

-- name: webhook_settle
-- Only who still has the lease may say what became of it.
UPDATE webhook_delivery SET
    state = v.state, attempts = v.attempts, due_at_ms = v.due, lease_until_ms = NULL, status_code = v.status,
    error = v.error, ended_at_ms = v.ended
FROM (
    SELECT
        value ->> 0 AS id, value ->> 1 AS lease, value ->> 2 AS state, value ->> 3 AS due, value ->> 4 AS status,
        value ->> 5 AS error, value ->> 6 AS ended, value ->> 7 AS attempts
    FROM json_each(:rows)
) AS v
WHERE webhook_delivery.id = v.id AND webhook_delivery.state = 'processing' AND lease_until_ms = v.lease
RETURNING webhook_delivery.id

-- name: webhook_release
UPDATE webhook_delivery SET state = 'pending', lease_until_ms = NULL
FROM (SELECT value ->> 0 AS id, value ->> 1 AS lease FROM json_each(:rows)) AS v
WHERE webhook_delivery.id = v.id AND webhook_delivery.state = 'processing' AND lease_until_ms = v.lease
RETURNING webhook_delivery.id

-- name: webhook_behind
-- What follows in a resource is due when the first one is, neither sooner nor later.
UPDATE webhook_delivery SET due_at_ms = v.due
FROM (SELECT value ->> 0 AS endpoint, value ->> 1 AS resource, value ->> 2 AS due FROM json_each(:rows)) AS v
WHERE webhook_delivery.endpoint_id = v.endpoint AND webhook_delivery.resource = v.resource
    AND webhook_delivery.state IN ('pending', 'processing') AND webhook_delivery.state = 'pending'
    AND webhook_delivery.due_at_ms <> v.due
RETURNING webhook_delivery.id

-- name: webhook_add_attempts
INSERT INTO webhook_attempt (delivery_id, endpoint_id, at_ms, duration_ms, status_code, error, answer)
SELECT
    value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6
FROM json_each(:rows) WHERE true
RETURNING id

-- name: webhook_attempts_of
SELECT a.delivery_id, a.at_ms, a.duration_ms, a.status_code, a.error, a.answer
FROM json_each(:rows) AS k JOIN webhook_attempt AS a ON a.delivery_id = k.value ->> 0
ORDER BY a.delivery_id, a.id

-- name: webhook_states
SELECT e.id, e.state, e.reason FROM json_each(:rows) AS k JOIN webhook_endpoint AS e ON e.id = k.value ->> 0

-- name: webhook_device_names
SELECT d.dk, d.device_id FROM json_each(:rows) AS k JOIN device AS d ON d.dk = k.value ->> 0
