-- name: webhook_add_events
INSERT INTO webhook_event (id, type, resource_type, resource_id, body, user_id, created_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?)

-- name: webhook_event_ords
SELECT e.id, e.ord FROM json_each(:rows) AS k JOIN webhook_event AS e ON e.id = k.value ->> 0

-- name: webhook_add_deliveries
INSERT INTO webhook_delivery (endpoint_id, event_ord, resource, kind, state, due_at_ms, created_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?)
