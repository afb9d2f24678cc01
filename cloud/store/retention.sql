-- name: retention_telemetry
-- A portion at a time, so that nobody waits long for the writer.
DELETE FROM telemetry WHERE ord IN (
    SELECT ord FROM telemetry WHERE received_at_ms < :before_ms AND ord <= :through
    ORDER BY received_at_ms LIMIT :row_limit
)

-- name: retention_rejected
DELETE FROM rejected_item WHERE id IN (
    SELECT id FROM rejected_item WHERE received_at_ms < :before_ms ORDER BY received_at_ms LIMIT :row_limit
)
