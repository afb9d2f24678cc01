-- name: stage_one*!
-- One sighting; of two of the same path the later counts.
INSERT OR REPLACE INTO temp.sightings (root, path, kind, size, mtime_ns, inode, priority)
VALUES (:root, :path, :kind, :size, :mtime_ns, :inode, :priority);

-- name: drop_unchanged!
-- Sightings that say what the newest row of the path says already, unless that row gave its source up for gone.
DELETE FROM temp.sightings AS s WHERE EXISTS (
    SELECT 1 FROM files AS f
    WHERE f.id = (SELECT max(n.id) FROM files AS n WHERE n.root = s.root AND n.path = s.path)
      AND f.size = s.size AND f.mtime_ns = s.mtime_ns AND f.inode = s.inode AND f.kind = s.kind
      AND f.state <> 'superseded'
      AND NOT (f.state = 'failed' AND f.error_code IN ('source-gone', 'source-unreadable'))
);

-- name: refresh_pending!
-- A version that nobody has begun to send is simply the newer one.
UPDATE files SET kind = s.kind, size = s.size, mtime_ns = s.mtime_ns, inode = s.inode, priority = s.priority,
    sha256 = NULL, attempts = 0, due_at_ms = :due_at_ms, error_code = NULL, error_detail = NULL, error_hint = NULL
FROM temp.sightings AS s
WHERE files.root = s.root AND files.path = s.path AND files.state = 'pending';

-- name: supersede_begun!
-- A version that is being sent, or was refused, makes way for the newer one.
UPDATE files SET state = 'superseded'
WHERE state IN ('uploading', 'failed')
  AND (root, path) IN (SELECT root, path FROM temp.sightings);

-- name: insert_new!
INSERT INTO files (root, path, kind, size, mtime_ns, inode, priority, state, due_at_ms, queued_at_ms, queued_wall_ms)
SELECT s.root, s.path, s.kind, s.size, s.mtime_ns, s.inode, s.priority, 'pending', :due_at_ms, :now_ms, :wall_ms
FROM temp.sightings AS s
WHERE NOT EXISTS (
    SELECT 1 FROM files AS f WHERE f.root = s.root AND f.path = s.path AND f.state = 'pending'
);

-- name: staged^
SELECT count(*), coalesce(sum(size), 0) FROM temp.sightings;

-- name: unstage!
DELETE FROM temp.sightings;

-- name: sweep_superseded!
-- Superseded versions whose transfer has ended have nothing more to say.
DELETE FROM files WHERE state = 'superseded' AND transfer_id IS NULL;

-- name: next_in_turn
-- Pending versions whose time has come: priority, then age. None whose older version is still on its way.
SELECT f.id, f.root, f.path, f.kind, f.size, f.mtime_ns, f.inode, f.priority, f.attempts
FROM files AS f
WHERE f.state = 'pending' AND f.due_at_ms <= :now_ms
  AND f.id NOT IN (SELECT value FROM json_each(:besides))
  AND NOT EXISTS (
      SELECT 1 FROM files AS o WHERE o.root = f.root AND o.path = f.path AND o.transfer_id IS NOT NULL
  )
ORDER BY f.priority DESC, f.id
LIMIT :most;

-- name: next_due$
-- When the next pending version is due that was refused fewer times than that, NULL when there is none.
SELECT min(due_at_ms) FROM files WHERE state = 'pending' AND attempts < :tries_max;

-- name: claim*!
-- Compare and set: a version that changed since it was read stays pending.
UPDATE files SET state = 'uploading', transfer_id = :transfer_id, sha256 = :sha256
WHERE id = :id AND state = 'pending' AND size = :size AND mtime_ns = :mtime_ns AND inode = :inode;

-- name: claimed$
SELECT count(*) FROM files WHERE transfer_id = :transfer_id;

-- name: complete_unchanged*!
-- The content is what the cloud has for this path already.
UPDATE files SET state = 'complete', sha256 = :sha256, completed_wall_ms = :wall_ms, error_code = NULL,
    error_detail = NULL, error_hint = NULL
WHERE id = :id AND state = 'pending' AND size = :size AND mtime_ns = :mtime_ns AND inode = :inode;

-- name: delivered$
-- The SHA-256 that the cloud holds as the newest of this path.
SELECT sha256 FROM files WHERE root = :root AND path = :path AND state = 'complete' ORDER BY id DESC LIMIT 1;

-- name: remember_contents!
INSERT OR IGNORE INTO contents (sha256)
SELECT DISTINCT sha256 FROM files WHERE transfer_id = :transfer_id AND sha256 IS NOT NULL;

-- name: remember_content*!
INSERT OR IGNORE INTO contents (sha256) VALUES (:sha256);

-- name: forget_content*!
DELETE FROM contents WHERE sha256 = :sha256;

-- name: doubt_delivered!
DELETE FROM files WHERE state = 'complete';

-- name: doubt_contents!
DELETE FROM contents;

-- name: knows_content$
SELECT 1 FROM contents WHERE sha256 = :sha256;

-- name: complete_transfer!
UPDATE files SET state = 'complete', transfer_id = NULL, completed_wall_ms = :wall_ms, error_code = NULL,
    error_detail = NULL, error_hint = NULL
WHERE transfer_id = :transfer_id AND state = 'uploading';

-- name: release_superseded!
UPDATE files SET transfer_id = NULL WHERE transfer_id = :transfer_id AND state = 'superseded';

-- name: drop_older_versions!
-- The newest complete version of a path is kept to compare with; older ones have nothing more to say.
DELETE FROM files WHERE id IN (
    SELECT o.id FROM files AS n JOIN files AS o ON o.root = n.root AND o.path = n.path AND o.id < n.id
    WHERE n.transfer_id = :transfer_id AND n.state = 'uploading'
      AND o.state IN ('complete', 'superseded', 'failed') AND o.transfer_id IS NULL
);

-- name: drop_older_of!
DELETE FROM files
WHERE root = :root AND path = :path AND id < :id AND state IN ('complete', 'superseded', 'failed')
  AND transfer_id IS NULL;

-- name: members
SELECT id, root, path, kind, size, mtime_ns, inode, priority, attempts, sha256, state
FROM files WHERE transfer_id = :transfer_id ORDER BY id;

-- name: postpone!
UPDATE files SET state = 'pending', transfer_id = NULL, attempts = attempts + 1, due_at_ms = :due_at_ms,
    error_code = :code, error_detail = :detail, error_hint = :hint
WHERE id = :id AND state IN ('pending', 'uploading');

-- name: has_pending_successor$
SELECT 1 FROM files AS f JOIN files AS p ON p.root = f.root AND p.path = f.path AND p.state = 'pending' AND p.id <> f.id
WHERE f.id = :id;

-- name: release!
-- Back to pending at once, without blame.
UPDATE files SET state = 'pending', transfer_id = NULL, due_at_ms = :due_at_ms
WHERE id = :id AND state = 'uploading';

-- name: fail!
UPDATE files SET state = 'failed', transfer_id = NULL, attempts = attempts + 1, error_code = :code,
    error_detail = :detail, error_hint = :hint
WHERE id = :id AND state IN ('pending', 'uploading');

-- name: supersede!
UPDATE files SET state = 'superseded', transfer_id = NULL WHERE id = :id AND state IN ('pending', 'uploading');

-- name: retry_all!
UPDATE files SET state = CASE state WHEN 'failed' THEN 'pending' ELSE state END, due_at_ms = 0
WHERE state = 'failed' OR (state = 'pending' AND due_at_ms > 0);

-- name: retry_one!
UPDATE files SET state = CASE state WHEN 'failed' THEN 'pending' ELSE state END, due_at_ms = 0
WHERE id = :id AND (state = 'failed' OR (state = 'pending' AND due_at_ms > 0));

-- name: get_row^
SELECT * FROM files WHERE id = :id;

-- name: versions
-- All rows of a path, newest first.
SELECT * FROM files WHERE root = :root AND path = :path ORDER BY id DESC;

-- name: failures
SELECT * FROM files WHERE state = 'failed' OR (state = 'pending' AND error_code IS NOT NULL)
ORDER BY state = 'failed' DESC, id LIMIT :most;

-- name: count_failures$
SELECT count(*) FROM files WHERE state = 'failed';

-- name: queue
-- Pending and uploading, in the order in which they will be sent.
SELECT * FROM files WHERE state IN ('pending', 'uploading')
ORDER BY state = 'uploading' DESC, priority DESC, id LIMIT :most OFFSET :skip;

-- name: position$
-- How many pending versions go before this one.
SELECT count(*) FROM files
WHERE state = 'pending' AND (priority > :priority OR (priority = :priority AND id < :id));

-- name: owed^
-- Files and bytes not yet delivered, and when the oldest was queued.
SELECT count(*), coalesce(sum(size), 0), min(queued_at_ms) FROM files WHERE state IN ('pending', 'uploading');

-- name: owed_now$
-- Whether anything waits to be sent, cheaply.
SELECT EXISTS (SELECT 1 FROM files WHERE state = 'pending') OR EXISTS (SELECT 1 FROM transfers);

-- name: by_priority
SELECT priority, count(*) AS files, sum(size) AS bytes, min(queued_at_ms) AS oldest_at_ms FROM files
WHERE state IN ('pending', 'uploading') GROUP BY priority ORDER BY priority DESC;

-- name: by_state
SELECT state, count(*) AS files, sum(size) AS bytes FROM files GROUP BY state;
