-- Webhooks out: endpoints, what happened, what is to be delivered of it, every attempt.

-- name: webhook_subscribers
SELECT id, event_types, state FROM webhook_endpoint ORDER BY id
