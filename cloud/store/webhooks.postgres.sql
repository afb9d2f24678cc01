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
