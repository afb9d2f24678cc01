-- name: contents_known
-- Where the given contents of devices lie; rows of (dk, sha256).
SELECT c.sha256 AS sha256, c.length_bytes AS length_bytes
FROM json_each(:rows) AS asked
JOIN content AS c ON c.dk = asked.value ->> 0 AND c.sha256 = asked.value ->> 1;

-- name: content_add
INSERT INTO content (dk, sha256, blob, offset_bytes, length_bytes, created_at_ms) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (dk, sha256) DO NOTHING;

-- name: file_publish
-- The same content under the same path is the same version, so sending again changes nothing.
INSERT INTO file (dk, path, version, sha256, length_bytes, mtime_ms, upload_id, published_at_ms)
VALUES (?, ?, 1, ?, ?, ?, ?, ?)
ON CONFLICT (dk, path) DO UPDATE SET
    version = file.version + 1, sha256 = excluded.sha256, length_bytes = excluded.length_bytes,
    mtime_ms = excluded.mtime_ms, upload_id = excluded.upload_id, published_at_ms = excluded.published_at_ms
WHERE file.sha256 <> excluded.sha256;

-- name: file_version_publish
-- After file_publish: the versions that this upload made current; rows of (dk, path, upload_id).
INSERT INTO file_version (file_id, version, sha256, length_bytes, mtime_ms, upload_id, published_at_ms)
SELECT id, version, sha256, length_bytes, mtime_ms, upload_id, published_at_ms
FROM file WHERE dk = ? AND path = ? AND upload_id = ?
ON CONFLICT (file_id, version) DO NOTHING;
