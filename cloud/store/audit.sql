-- The audit: who did what. The database itself refuses to change it.

-- name: audit_add
INSERT INTO audit (at_ms, actor, action, target, detail, before_hash, after_hash)
VALUES (:at_ms, :actor, :action, :target, :detail, :before_hash, :after_hash)

-- name: audit_page
-- `action` may be a pattern of LIKE; `target` and `hashed` are two names of the same.
SELECT id, at_ms, actor, action, target, detail, before_hash, after_hash FROM audit
WHERE id < :before_id AND at_ms >= :from_ms AND at_ms < :to_ms
  AND (CAST(:actor AS TEXT) IS NULL OR actor = :actor)
  AND (CAST(:action AS TEXT) IS NULL OR action LIKE :action ESCAPE '\')
  AND (CAST(:target AS TEXT) IS NULL OR target = :target OR target = :hashed)
ORDER BY id DESC LIMIT :row_limit OFFSET :row_offset

-- name: audit_count
SELECT count(*) FROM audit
WHERE at_ms >= :from_ms AND at_ms < :to_ms
  AND (CAST(:actor AS TEXT) IS NULL OR actor = :actor)
  AND (CAST(:action AS TEXT) IS NULL OR action LIKE :action ESCAPE '\')
  AND (CAST(:target AS TEXT) IS NULL OR target = :target OR target = :hashed)

-- name: audit_of_action
SELECT target, detail FROM audit WHERE action = :action ORDER BY id
