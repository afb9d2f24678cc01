-- name: content_get
SELECT sha256, blob, offset_bytes, length_bytes FROM content WHERE dk = :dk AND sha256 = :sha256;

-- name: content_page
SELECT sha256 FROM content WHERE dk = :dk AND sha256 > :after ORDER BY sha256 LIMIT :row_limit;

-- name: file_page
-- A stretch of paths, so a prefix search is a walk along the index.
SELECT path, version, sha256, length_bytes, mtime_ms, published_at_ms, upload_id FROM file
WHERE dk = (SELECT dk FROM device WHERE device_id = :device_id) AND path > :after AND path >= :low AND path < :high
ORDER BY path LIMIT :row_limit OFFSET :row_offset;

-- name: file_count
SELECT count(*) FROM file WHERE dk = (SELECT dk FROM device WHERE device_id = :device_id) AND path >= :low AND path < :high;

-- name: file_totals
SELECT count(*) AS files, coalesce(sum(length_bytes), 0) AS length_bytes, coalesce(sum(version), 0) AS versions,
       max(published_at_ms) AS last_published_at_ms
FROM file WHERE dk = (SELECT dk FROM device WHERE device_id = :device_id);

-- name: file_current
SELECT f.path, f.version, f.sha256, f.length_bytes, f.mtime_ms, f.published_at_ms, f.upload_id,
       c.blob, c.offset_bytes
FROM file AS f JOIN content AS c ON c.dk = f.dk AND c.sha256 = f.sha256
WHERE f.dk = (SELECT dk FROM device WHERE device_id = :device_id) AND f.path = :path;

-- name: file_at_version
SELECT f.path, v.version, v.sha256, v.length_bytes, v.mtime_ms, v.published_at_ms, v.upload_id,
       c.blob, c.offset_bytes
FROM file AS f JOIN file_version AS v ON v.file_id = f.id
     JOIN content AS c ON c.dk = f.dk AND c.sha256 = v.sha256
WHERE f.dk = (SELECT dk FROM device WHERE device_id = :device_id) AND f.path = :path AND v.version = :version;

-- name: file_versions
SELECT f.path, v.version, v.sha256, v.length_bytes, v.mtime_ms, v.published_at_ms, v.upload_id
FROM file AS f JOIN file_version AS v ON v.file_id = f.id
WHERE f.dk = (SELECT dk FROM device WHERE device_id = :device_id) AND f.path = :path AND v.version < :before
ORDER BY v.version DESC LIMIT :row_limit;

-- name: content_count
SELECT count(*) FROM content WHERE dk = :dk;
