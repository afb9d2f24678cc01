-- name: begin<!
INSERT INTO transfers (kind, spool, length, sha256, priority, created_at_ms, created_wall_ms)
VALUES (:kind, :spool, :length, :sha256, :priority, :now_ms, :wall_ms);

-- name: end!
DELETE FROM transfers WHERE id = :id;

-- name: begun
-- Transfers under way: what is begun is finished first, then priority, then age.
SELECT id, kind, spool, length, offset, sha256, priority, url, mismatches FROM transfers
ORDER BY url IS NULL, priority DESC, id;

-- name: get^
SELECT id, kind, spool, length, offset, sha256, priority, url, mismatches FROM transfers WHERE id = :id;

-- name: located!
UPDATE transfers SET url = :url, offset = :offset WHERE id = :id;

-- name: start_over!
UPDATE transfers SET url = NULL, offset = 0, mismatches = mismatches + :mismatch WHERE id = :id;

-- name: spools
SELECT spool FROM transfers WHERE spool IS NOT NULL;
