-- Webhooks in: each is answered once, and the same again.

-- name: inbound_by_id
SELECT digest, answer FROM webhook_inbound WHERE id = :id

-- name: inbound_add
INSERT INTO webhook_inbound (id, digest, answer, received_at_ms) VALUES (:id, :digest, :answer, :now_ms)

-- name: inbound_drop_old
DELETE FROM webhook_inbound WHERE received_at_ms < :before_ms
