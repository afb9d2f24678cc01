-- name: get^
-- A record, and whether the message of its last write here still waits.
SELECT r.*, r.message_id IS NOT NULL AND EXISTS (SELECT 1 FROM messages AS m WHERE m.id = r.message_id) AS waiting
FROM records AS r WHERE r.type = :type AND r.id = :id;

-- name: page
SELECT r.*, r.message_id IS NOT NULL AND EXISTS (SELECT 1 FROM messages AS m WHERE m.id = r.message_id) AS waiting
FROM records AS r
WHERE r.type = :type AND r.id > :after AND (r.deleted = 0 OR :deleted)
ORDER BY r.id LIMIT :most;

-- name: count_of$
SELECT count(*) FROM records WHERE type = :type AND (deleted = 0 OR :deleted);

-- name: all_after
-- All records, a part at a time.
SELECT r.*, r.message_id IS NOT NULL AND EXISTS (SELECT 1 FROM messages AS m WHERE m.id = r.message_id) AS waiting
FROM records AS r WHERE (r.type, r.id) > (:type, :id) ORDER BY r.type, r.id LIMIT :most;

-- name: keep!
INSERT INTO records (type, id, state, fields, deleted, conflicted, message_id, updated_wall_ms, synced_wall_ms, pass,
    joined)
VALUES (:type, :id, :state, :fields, :deleted, :conflicted, :message_id, :updated_wall_ms, :synced_wall_ms, :pass_number,
    :joined)
ON CONFLICT (type, id) DO UPDATE SET state = excluded.state, fields = excluded.fields, deleted = excluded.deleted,
    conflicted = excluded.conflicted, message_id = excluded.message_id, updated_wall_ms = excluded.updated_wall_ms,
    synced_wall_ms = excluded.synced_wall_ms, pass = excluded.pass, joined = excluded.joined;

-- name: leave!
-- The cloud says that it is gone; it stays until the write that waits has arrived.
UPDATE records SET pass = :gone WHERE type = :type AND id = :id;

-- name: drop!
DELETE FROM records WHERE type = :type AND id = :id;

-- name: drop_decisions!
DELETE FROM decisions WHERE type = :type AND record_id = :id;

-- name: swept
-- What did not come again in a full fetch, and has nothing that waits.
SELECT type, id FROM records AS r
WHERE pass < :pass_number AND pass >= 0
  AND NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.id = r.message_id);

-- name: unseen
-- What was written here during a full fetch, has arrived, and did not come with it.
SELECT r.*, 0 AS waiting FROM records AS r
WHERE pass >= :pass_number AND joined < :pass_number AND message_id IS NULL;

-- name: settled!
-- What the cloud has acknowledged now; what it has refused keeps the id of its message.
UPDATE records SET message_id = NULL, synced_wall_ms = :wall_ms
FROM (
    SELECT id, json_extract(body, '$.type') AS record_type, json_extract(body, '$.id') AS record_id FROM messages
    WHERE stream = :stream AND seq <= :seq AND id NOT IN (SELECT value FROM json_each(:refused))
) AS m
WHERE records.type = m.record_type AND records.id = m.record_id AND records.message_id = m.id;

-- name: gone
-- What the cloud said is gone, and which has nothing that waits any more.
SELECT type, id FROM records AS r
WHERE pass = :gone AND NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.id = r.message_id);

-- name: told_by
-- The records that these messages tell of.
SELECT DISTINCT json_extract(body, '$.type'), json_extract(body, '$.id') FROM messages
WHERE +stream GLOB 'record-*' AND id IN (SELECT value FROM json_each(:ids));

-- name: decide!
INSERT OR IGNORE INTO decisions (id, type, record_id, body, wall_ms) VALUES (:id, :type, :record_id, :body, :wall_ms);

-- name: decisions_of
-- Newest first.
SELECT body FROM decisions WHERE type = :type AND record_id = :id ORDER BY ord DESC LIMIT :most;

-- name: trim_decisions!
DELETE FROM decisions WHERE ord <= (SELECT max(ord) FROM decisions) - :keep;

-- name: counts^
SELECT (SELECT count(*) FROM records WHERE deleted = 0) AS records,
    (SELECT count(*) FROM records AS r JOIN messages AS m ON m.id = r.message_id WHERE r.message_id IS NOT NULL)
        AS waiting,
    (SELECT count(*) FROM records WHERE conflicted = 1) AS open;
