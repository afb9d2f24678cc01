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

-- name: retention_tombstones
-- A portion of what was deleted long ago; what somebody has still to decide about stays.
SELECT r.type, r.id, r.change FROM record AS r
WHERE r.deleted = 1 AND r.updated_at_ms < :before_ms AND NOT EXISTS (
    SELECT 1 FROM conflict AS c WHERE c.type = r.type AND c.record_id = r.id AND c.state = 'open'
)
ORDER BY r.updated_at_ms LIMIT :row_limit

-- name: retention_forgotten
-- Who has not seen this change fetches everything anew.
UPDATE generation SET value = :change WHERE name = 'records-forgotten' AND value < :change

-- name: retention_tombstone_scopes
DELETE FROM record_scope WHERE type = :type AND id = :id

-- name: retention_tombstone_conflicts
DELETE FROM conflict WHERE type = :type AND record_id = :id

-- name: retention_tombstone
DELETE FROM record WHERE type = :type AND id = :id

-- name: retention_conflicts
-- They were made in the order of `ord`: from the oldest on, and not further than the first that is young.
DELETE FROM conflict WHERE ord IN (
    SELECT c.ord FROM conflict AS c
    WHERE c.state <> 'open' AND coalesce(c.resolved_at_ms, c.created_at_ms) < :before_ms
      AND c.ord < coalesce(
          (SELECT y.ord FROM conflict AS y WHERE y.created_at_ms >= :before_ms ORDER BY y.ord LIMIT 1),
          9223372036854775807
      )
    ORDER BY c.ord LIMIT :row_limit
)
