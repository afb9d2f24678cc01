-- name: next_seq$
-- The next number of a stream; the number and the message that carries it commit together.
INSERT INTO streams (stream, last_seq) VALUES (:stream, 1)
ON CONFLICT (stream) DO UPDATE SET last_seq = last_seq + 1
RETURNING last_seq;

-- name: append!
INSERT INTO messages (stream, seq, id, item_type, body, priority, boot_id, boottime_ms, wall_ms, clock_trusted,
    queued_at_ms)
VALUES (:stream, :seq, :id, :item_type, :body, :priority, :boot_id, :boottime_ms, :wall_ms, :clock_trusted, :now_ms);

-- name: streams_owing
-- The streams with something to send, urgent ones first. The first message of a stream speaks for its priority.
SELECT stream, (SELECT priority FROM messages AS m WHERE m.stream = s.stream ORDER BY seq LIMIT 1) AS priority
FROM streams AS s WHERE EXISTS (SELECT 1 FROM messages AS m WHERE m.stream = s.stream)
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

-- name: owed^
SELECT count(*), coalesce(sum(length(body)), 0), min(queued_at_ms) FROM messages;

-- name: by_stream
SELECT stream, count(*) AS messages, sum(length(body)) AS bytes, min(queued_at_ms) AS oldest_at_ms
FROM messages GROUP BY stream ORDER BY stream;

-- name: hollow_out!
-- The cloud will never take this message: its number is still sent, empty, so that the ones behind it are contiguous.
UPDATE messages SET item_type = 'dropped', body = '{}' WHERE stream = :stream AND seq = :seq AND item_type <> 'dropped';

-- name: open_stream!
INSERT INTO streams (stream, last_seq)
SELECT :new, last_seq - :skipped FROM streams WHERE stream = :old;

-- name: move_stream!
UPDATE messages SET stream = :new, seq = seq - :skipped WHERE stream = :old;

-- name: count$
SELECT count(*) FROM messages;

-- name: add_shed!
-- How many reports were not written because the queue was full, until the ledger tells it.
INSERT INTO cursors (name, value) VALUES ('shed', '1')
ON CONFLICT (name) DO UPDATE SET value = CAST(value AS INTEGER) + 1;

-- name: take_shed$
DELETE FROM cursors WHERE name = 'shed' RETURNING value;
