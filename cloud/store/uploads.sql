-- name: upload_insert
-- A new upload; bytes may already be there.
INSERT INTO upload (id, dk, kind, role, state, length_bytes, path, sha256, mtime_ms, metadata, parts,
                    created_at_ms, expires_at_ms)
VALUES (:id, :dk, :kind, :role, 'receiving', :length_bytes, :path, :sha256, :mtime_ms, :metadata, :parts,
        :created_at_ms, :expires_at_ms);

-- name: upload_get
SELECT id, dk, kind, role, state, length_bytes, path, sha256, mtime_ms, metadata, parts, created_at_ms,
       expires_at_ms, error_code, published, reused, refused, finished_at_ms
FROM upload WHERE id = :id;

-- name: upload_set_length
-- A deferred length is said once.
UPDATE upload SET length_bytes = :length_bytes WHERE id = :id AND length_bytes IS NULL AND state = 'receiving';

-- name: upload_touch
UPDATE upload SET expires_at_ms = :expires_at_ms WHERE id = :id AND state = 'receiving';

-- name: upload_finish
-- Compare-and-set: whoever finishes first decides, a second finish changes nothing.
UPDATE upload SET state = :state, finished_at_ms = :now_ms, expires_at_ms = :expires_at_ms, error_code = :error_code,
       published = :published, reused = :reused, refused = :refused
WHERE id = :id AND state = 'receiving';

-- name: upload_end
-- Termination or expiry. What it has published stays.
UPDATE upload SET state = 'ended', error_code = NULL, finished_at_ms = :now_ms, expires_at_ms = :expires_at_ms
WHERE id = :id AND state <> 'ended';

-- name: upload_refusals
SELECT path, code FROM upload_refusal WHERE upload_id = :id ORDER BY position LIMIT :row_limit;

-- name: upload_receiving
-- For the start: uploads whose bytes may all be there already.
SELECT id, kind, role, length_bytes, created_at_ms FROM upload
WHERE state = 'receiving' AND (created_at_ms, id) > (:after_ms, :after_id)
ORDER BY created_at_ms, id LIMIT :row_limit;

-- name: upload_expired
SELECT id, state FROM upload WHERE expires_at_ms <= :now_ms ORDER BY expires_at_ms LIMIT :row_limit;

-- name: upload_forget
DELETE FROM upload WHERE id = :id AND state <> 'receiving';
