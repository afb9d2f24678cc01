-- name: next_seq$
-- The next number of a stream; the number and the message that carries it commit together.
INSERT INTO streams (stream, priority, last_seq) VALUES (:stream, :turn, 1)
ON CONFLICT (stream) DO UPDATE SET last_seq = last_seq + 1
RETURNING last_seq;

-- name: append!
INSERT INTO messages (stream, seq, id, item_type, body, priority, boot_id, boottime_ms, wall_ms, clock_trusted,
    queued_at_ms)
VALUES (:stream, :seq, :id, :item_type, :body, :priority, :boot_id, :boottime_ms, :wall_ms, :clock_trusted, :now_ms);

-- name: streams_owing
-- The streams with something to send, urgent ones first.
SELECT stream FROM streams AS s WHERE EXISTS (SELECT 1 FROM messages AS m WHERE m.stream = s.stream)
ORDER BY priority DESC, stream;

-- name: batch
-- The next messages of a stream, in order.
SELECT stream, seq, id, item_type, body, boot_id, boottime_ms, wall_ms, clock_trusted FROM messages
WHERE stream = :stream AND seq > :after ORDER BY seq LIMIT :most;

-- name: accept_through!
-- The cloud has all of the stream up to this number, durably.
DELETE FROM messages WHERE stream = :stream AND seq <= :seq;

-- name: mark_accepted!
UPDATE streams SET accepted_seq = max(accepted_seq, min(:seq, last_seq)) WHERE stream = :stream;

-- name: by_stream
-- What waits of each stream. Its numbers are contiguous, so nothing is counted one by one.
SELECT s.stream, s.last_seq - m.seq + 1 AS messages, s.bytes, m.queued_at_ms AS oldest_at_ms
FROM streams AS s JOIN messages AS m ON m.stream = s.stream
    AND m.seq = (SELECT min(seq) FROM messages AS f WHERE f.stream = s.stream)
ORDER BY s.stream;

-- name: count_reports$
-- What waits and may be shed: reports, and events of low priority.
SELECT coalesce(sum(s.last_seq + 1 - (SELECT min(seq) FROM messages AS m WHERE m.stream = s.stream)), 0)
FROM streams AS s WHERE s.priority <= :sheddable_max OR s.stream GLOB 'event-*';

-- name: acknowledged$
-- How many messages the cloud has acknowledged, of all streams.
SELECT coalesce(sum(accepted_seq), 0) FROM streams;

-- name: hollow_out!
-- The cloud will never take this message: its number is still sent, empty, so that the ones behind it are contiguous.
UPDATE messages SET item_type = 'dropped', body = '{}' WHERE stream = :stream AND seq = :seq AND item_type <> 'dropped';

-- name: from_number
-- What waits of a stream from a number on, in order.
SELECT seq, id, item_type, body, boot_id, boottime_ms, wall_ms, clock_trusted FROM messages
WHERE stream = :stream AND seq >= :seq ORDER BY seq;

-- name: streams_named
SELECT stream FROM streams WHERE stream = :name OR stream GLOB :name || '-*';

-- name: open_stream!
INSERT INTO streams (stream, priority, last_seq)
SELECT :new, priority, last_seq - :skipped FROM streams WHERE stream = :old;

-- name: move_stream!
UPDATE messages SET stream = :new, seq = seq - :skipped WHERE stream = :old;

-- name: waiting^
-- A message that is still here, by its id.
SELECT item_type, body, wall_ms FROM messages WHERE id = :id;

-- name: add_shed!
-- How many were not taken because there was no room, by reason, until the ledger tells it.
INSERT INTO cursors (name, value) VALUES ('shed.' || :reason, CAST(:count AS TEXT))
ON CONFLICT (name) DO UPDATE SET value = CAST(value AS INTEGER) + excluded.value;

-- name: shed
SELECT name, CAST(value AS INTEGER) AS count FROM cursors WHERE name = 'shed' OR name GLOB 'shed.*';

-- name: take_shed
DELETE FROM cursors WHERE name = 'shed' OR name GLOB 'shed.*' RETURNING name, CAST(value AS INTEGER) AS count;

-- name: accepted
SELECT stream, accepted_seq FROM streams WHERE accepted_seq > 0 ORDER BY stream;
