-- name: contents_known
-- Where the given contents of devices lie; rows of (dk, sha256).
SELECT c.sha256 AS sha256, c.length_bytes AS length_bytes
FROM unnest($1::bigint[], $2::text[]) AS asked (dk, sha256)
JOIN content AS c ON c.dk = asked.dk AND c.sha256 = asked.sha256;

-- name: content_add
INSERT INTO content (dk, sha256, blob, offset_bytes, length_bytes, created_at_ms)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
ON CONFLICT (dk, sha256) DO NOTHING;

-- name: file_publish
-- The same content under the same path is the same version, so sending again changes nothing.
INSERT INTO file (dk, path, version, sha256, length_bytes, mtime_ms, upload_id, published_at_ms)
SELECT dk, path, 1, sha256, length_bytes, mtime_ms, upload_id, published_at_ms
FROM unnest($1::bigint[], $2::bytea[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[])
     AS new (dk, path, sha256, length_bytes, mtime_ms, upload_id, published_at_ms)
ON CONFLICT (dk, path) DO UPDATE SET
    version = file.version + 1, sha256 = excluded.sha256, length_bytes = excluded.length_bytes,
    mtime_ms = excluded.mtime_ms, upload_id = excluded.upload_id, published_at_ms = excluded.published_at_ms
WHERE file.sha256 <> excluded.sha256;

-- name: file_version_publish
-- After file_publish: the versions that this upload made current; rows of (dk, path, upload_id).
INSERT INTO file_version (file_id, version, sha256, length_bytes, mtime_ms, upload_id, published_at_ms)
SELECT f.id, f.version, f.sha256, f.length_bytes, f.mtime_ms, f.upload_id, f.published_at_ms
FROM unnest($1::bigint[], $2::bytea[], $3::text[]) AS new (dk, path, upload_id)
JOIN file AS f ON f.dk = new.dk AND f.path = new.path AND f.upload_id = new.upload_id
ON CONFLICT (file_id, version) DO NOTHING;
