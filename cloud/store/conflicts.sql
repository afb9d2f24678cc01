-- Decisions between writes, as they are reviewed. cloud.flows.recording writes them.

-- name: conflicts_page
SELECT c.ord, c.id, c.type, c.record_id, c.field, c.state, c.decision, c.explanation, c.created_at_ms,
       c.resolved_at_ms, c.resolved_by, c.resolution, d.device_id
FROM conflict AS c LEFT JOIN device AS d ON d.dk = c.dk
WHERE c.ord < :before AND (CAST(:state AS TEXT) IS NULL OR c.state = :state)
  AND (CAST(:type AS TEXT) IS NULL OR c.type = :type)
  AND (CAST(:record_id AS TEXT) IS NULL OR c.record_id = :record_id)
  AND (CAST(:dk AS BIGINT) IS NULL OR c.dk = :dk)
ORDER BY c.ord DESC LIMIT :row_limit OFFSET :row_offset

-- name: conflicts_count
SELECT count(*) FROM conflict AS c
WHERE (CAST(:state AS TEXT) IS NULL OR c.state = :state)
  AND (CAST(:type AS TEXT) IS NULL OR c.type = :type)
  AND (CAST(:record_id AS TEXT) IS NULL OR c.record_id = :record_id)
  AND (CAST(:dk AS BIGINT) IS NULL OR c.dk = :dk)

-- name: conflicts_open_page
-- The word itself, not a parameter: so the few open ones are found by their own index among all the others.
SELECT c.ord, c.id, c.type, c.record_id, c.field, c.state, c.decision, c.explanation, c.created_at_ms,
       c.resolved_at_ms, c.resolved_by, c.resolution, d.device_id
FROM conflict AS c LEFT JOIN device AS d ON d.dk = c.dk
WHERE c.state = 'open' AND c.ord < :before
  AND (CAST(:type AS TEXT) IS NULL OR c.type = :type)
  AND (CAST(:record_id AS TEXT) IS NULL OR c.record_id = :record_id)
  AND (CAST(:dk AS BIGINT) IS NULL OR c.dk = :dk)
ORDER BY c.ord DESC LIMIT :row_limit OFFSET :row_offset

-- name: conflicts_open_count
SELECT count(*) FROM conflict AS c
WHERE c.state = 'open'
  AND (CAST(:type AS TEXT) IS NULL OR c.type = :type)
  AND (CAST(:record_id AS TEXT) IS NULL OR c.record_id = :record_id)
  AND (CAST(:dk AS BIGINT) IS NULL OR c.dk = :dk)

-- name: conflict_by_id
SELECT c.ord, c.id, c.type, c.record_id, c.field, c.state, c.decision, c.explanation, c.created_at_ms,
       c.resolved_at_ms, c.resolved_by, c.resolution, d.device_id
FROM conflict AS c LEFT JOIN device AS d ON d.dk = c.dk
WHERE c.id = :id

-- name: resolve_conflict
-- Also when the write that resolves it has settled it already, as any write does that has seen all sides.
UPDATE conflict SET state = 'resolved', resolved_at_ms = :now_ms, resolved_by = :resolved_by, resolution = :resolution
WHERE id = :id
