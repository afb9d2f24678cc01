-- The audit: who did what. The database itself refuses to change it.

-- name: audit_add
INSERT INTO audit (at_ms, actor, action, target, detail, before_hash, after_hash)
VALUES (:at_ms, :actor, :action, :target, :detail, :before_hash, :after_hash)

-- name: audit_page
SELECT id, at_ms, actor, action, target, detail FROM audit
WHERE id < :before_id ORDER BY id DESC LIMIT :row_limit

-- name: audit_of_action
SELECT target, detail FROM audit WHERE action = :action ORDER BY id
