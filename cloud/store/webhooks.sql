-- Webhooks out: endpoints, what happened, what is to be delivered of it, every attempt.

-- name: webhook_subscribers
SELECT id, event_types, state FROM webhook_endpoint ORDER BY id

-- name: webhook_endpoints
SELECT * FROM webhook_endpoint ORDER BY created_at_ms DESC, id LIMIT :row_limit OFFSET :row_offset

-- name: webhook_endpoints_count
SELECT count(*) FROM webhook_endpoint

-- name: webhook_endpoints_disabled
SELECT count(*) FROM webhook_endpoint WHERE state = 'disabled'

-- name: webhook_endpoint
SELECT * FROM webhook_endpoint WHERE id = :id

-- name: webhook_add_endpoint
INSERT INTO webhook_endpoint (id, url, description, event_types, secret, state, created_at_ms, updated_at_ms)
VALUES (:id, :url, :description, :event_types, :secret, 'enabled', :now_ms, :now_ms)

-- name: webhook_change_endpoint
UPDATE webhook_endpoint SET
    url = :url, description = :description, event_types = :event_types, state = :state, reason = :reason,
    failing_since_ms = :failing_since_ms, held_until_ms = :held_until_ms, updated_at_ms = :now_ms
WHERE id = :id

-- name: webhook_rotate_secret
UPDATE webhook_endpoint SET
    secret = :secret, old_secret = :old_secret, old_until_ms = :old_until_ms, updated_at_ms = :now_ms
WHERE id = :id

-- name: webhook_remove_endpoint
DELETE FROM webhook_endpoint WHERE id = :id

-- name: webhook_endpoints_ready
-- Endpoints that have something due and may be sent to. Not EXISTS: PostgreSQL would make a join of it, through the
-- whole backlog; the first one that is due is a look into the index.
SELECT * FROM webhook_endpoint AS e
WHERE e.state = 'enabled' AND (e.held_until_ms IS NULL OR e.held_until_ms <= :now_ms) AND (
    SELECT d.id FROM webhook_delivery AS d
    WHERE d.endpoint_id = e.id AND d.state = 'pending' AND d.due_at_ms <= :now_ms
    ORDER BY d.due_at_ms, d.id LIMIT 1
) IS NOT NULL

-- name: webhook_endpoints_of_resource
-- Somebody asked for this resource: neither the schedule nor a hold counts.
SELECT * FROM webhook_endpoint AS e
WHERE e.state = 'enabled' AND EXISTS (
    SELECT 1 FROM webhook_delivery AS d
    WHERE d.endpoint_id = e.id AND d.resource = :resource AND d.state IN ('pending', 'processing')
        AND d.state = 'pending'
)

-- name: webhook_open_due
-- Whether anything that was due at `cut_ms` has not had its turn.
SELECT CASE WHEN EXISTS (
    SELECT 1 FROM webhook_delivery WHERE state = 'processing' AND created_at_ms <= :cut_ms
) OR EXISTS (
    SELECT 1 FROM webhook_endpoint AS e
    WHERE e.state = 'enabled' AND (e.held_until_ms IS NULL OR e.held_until_ms <= :now_ms) AND (
        SELECT d.id FROM webhook_delivery AS d
        WHERE d.endpoint_id = e.id AND d.state = 'pending' AND d.due_at_ms <= :cut_ms
        ORDER BY d.due_at_ms, d.id LIMIT 1
    ) IS NOT NULL
) THEN 1 ELSE 0 END

-- name: webhook_open_heads
-- The first unfinished delivery of a resource at each endpoint that is sent to; null where there is none. Not a join:
-- SQLite would go through the whole backlog for it.
SELECT (
    SELECT min(d.id) FROM webhook_delivery AS d
    WHERE d.endpoint_id = e.id AND d.resource = :resource AND d.state IN ('pending', 'processing')
) AS id
FROM webhook_endpoint AS e WHERE e.state = 'enabled'

-- name: webhook_lease_over
SELECT count(*) FROM webhook_delivery WHERE state = 'processing' AND lease_until_ms < :now_ms

-- name: webhook_reclaim
-- Who had it died: at the latest then somebody else tries.
UPDATE webhook_delivery SET state = 'pending', lease_until_ms = NULL
WHERE state = 'processing' AND lease_until_ms < :now_ms

-- name: webhook_recovered
UPDATE webhook_endpoint SET failing_since_ms = NULL, held_until_ms = NULL
WHERE id = :id AND failing_since_ms IS NOT NULL

-- name: webhook_failing
UPDATE webhook_endpoint SET failing_since_ms = :now_ms WHERE id = :id AND failing_since_ms IS NULL

-- name: webhook_hold
UPDATE webhook_endpoint SET held_until_ms = :until_ms
WHERE id = :id AND (held_until_ms IS NULL OR held_until_ms < :until_ms)

-- name: webhook_disable
UPDATE webhook_endpoint SET state = 'disabled', reason = :reason, updated_at_ms = :now_ms
WHERE id = :id AND state = 'enabled'

-- name: webhook_end_pending
UPDATE webhook_delivery SET state = 'failed', error = :error, ended_at_ms = :now_ms
WHERE endpoint_id = :endpoint_id AND state = 'pending'

-- name: webhook_end_lost
-- Of endpoints that were removed, or have been disabled for longer than anything is kept.
UPDATE webhook_delivery SET state = 'failed', error = 'endpoint-disabled', ended_at_ms = :now_ms
WHERE state = 'pending' AND (
    NOT EXISTS (SELECT 1 FROM webhook_endpoint AS e WHERE e.id = webhook_delivery.endpoint_id)
    OR (created_at_ms < :before_ms AND EXISTS (
        SELECT 1 FROM webhook_endpoint AS e WHERE e.id = webhook_delivery.endpoint_id AND e.state = 'disabled'
    ))
)

-- name: webhook_add_test
INSERT INTO webhook_delivery (
    endpoint_id, event_ord, resource, kind, state, attempts, due_at_ms, status_code, error, created_at_ms, ended_at_ms
)
VALUES (
    :endpoint_id, :event_ord, :resource, 'test', :state, 1, :at_ms, :status_code, :error, :at_ms, :ended_at_ms
)
RETURNING id

-- name: webhook_delivery_page
SELECT
    d.id, d.resource, d.kind, d.state, d.attempts, d.due_at_ms, d.status_code, d.error, d.created_at_ms,
    d.ended_at_ms, e.id AS event_id, e.type
FROM webhook_delivery AS d LEFT JOIN webhook_event AS e ON e.ord = d.event_ord
WHERE d.endpoint_id = :endpoint_id AND d.id < :before_id
    AND (CAST(:state AS TEXT) IS NULL OR d.state = :state) AND (CAST(:type AS TEXT) IS NULL OR e.type = :type)
ORDER BY d.id DESC LIMIT :row_limit OFFSET :row_offset

-- name: webhook_delivery_count
SELECT count(*) FROM webhook_delivery AS d LEFT JOIN webhook_event AS e ON e.ord = d.event_ord
WHERE d.endpoint_id = :endpoint_id
    AND (CAST(:state AS TEXT) IS NULL OR d.state = :state) AND (CAST(:type AS TEXT) IS NULL OR e.type = :type)

-- name: webhook_replay_one
SELECT e.ord, e.type, d.resource
FROM webhook_delivery AS d JOIN webhook_event AS e ON e.ord = d.event_ord
WHERE d.endpoint_id = :endpoint_id AND d.id = :delivery_id AND d.kind <> 'test'

-- name: webhook_replay_span
-- What is still on its way to the endpoint need not be sent twice.
SELECT e.ord, e.type, e.resource_type, e.resource_id FROM webhook_event AS e
WHERE e.created_at_ms >= :since_ms AND e.created_at_ms < :until_ms AND e.type <> 'webhook.test' AND NOT EXISTS (
    SELECT 1 FROM webhook_delivery AS d
    WHERE d.event_ord = e.ord AND d.endpoint_id = :endpoint_id AND d.state IN ('pending', 'processing')
)
ORDER BY e.ord LIMIT :row_limit

-- name: webhook_queue_states
SELECT state, count(*) AS number FROM webhook_delivery GROUP BY state

-- name: webhook_oldest_open
SELECT min(created_at_ms) FROM webhook_delivery WHERE state IN ('pending', 'processing')

-- name: webhook_attempts_since
SELECT count(*) AS attempts, count(error) AS failures FROM webhook_attempt WHERE at_ms >= :since_ms

-- name: webhook_failures_by_type
SELECT e.type, e.resource_type, count(*) AS number
FROM webhook_attempt AS a
JOIN webhook_delivery AS d ON d.id = a.delivery_id
JOIN webhook_event AS e ON e.ord = d.event_ord
WHERE a.at_ms >= :since_ms AND a.error IS NOT NULL
GROUP BY e.type, e.resource_type ORDER BY e.type, e.resource_type

-- name: webhook_recent_failures
SELECT a.at_ms, a.endpoint_id, a.status_code, a.error, d.resource, e.type
FROM webhook_attempt AS a
JOIN webhook_delivery AS d ON d.id = a.delivery_id
LEFT JOIN webhook_event AS e ON e.ord = d.event_ord
WHERE a.at_ms >= :since_ms AND a.error IS NOT NULL
ORDER BY a.at_ms DESC, a.id DESC LIMIT :row_limit

-- name: webhook_retries_since
SELECT CAST(coalesce(avg(attempts - 1), 0) AS DOUBLE PRECISION) FROM webhook_delivery
WHERE ended_at_ms >= :since_ms AND attempts > 0

-- name: webhook_forget_attempts
DELETE FROM webhook_attempt WHERE id IN (
    SELECT id FROM webhook_attempt WHERE at_ms < :before_ms ORDER BY at_ms LIMIT :row_limit
)

-- name: webhook_forget_deliveries
DELETE FROM webhook_delivery WHERE id IN (
    SELECT id FROM webhook_delivery WHERE ended_at_ms < :before_ms ORDER BY ended_at_ms LIMIT :row_limit
)

-- name: webhook_forget_events
DELETE FROM webhook_event WHERE ord IN (
    SELECT ord FROM webhook_event AS e WHERE e.created_at_ms < :before_ms
        AND NOT EXISTS (SELECT 1 FROM webhook_delivery AS d WHERE d.event_ord = e.ord)
    ORDER BY e.created_at_ms LIMIT :row_limit
)
