-- Forgetting one user. The permit opens the append-only tables for this user's rows, inside this transaction alone.

-- name: purge_permit_add
INSERT INTO purge_permit (user_id) VALUES (:user_id)

-- name: purge_permit_end
DELETE FROM purge_permit WHERE user_id = :user_id

-- name: purge_preview
SELECT
    (SELECT count(*) FROM attempt_events WHERE user_id = :user_id) AS attempt_events,
    (SELECT count(*) FROM telemetry WHERE user_id = :user_id) AS telemetry,
    (SELECT count(*) FROM learner_session WHERE user_id = :user_id) AS learner_session,
    (SELECT count(*) FROM session_answer AS a JOIN learner_session AS s ON s.session_id = a.session_id
     WHERE s.user_id = :user_id) AS session_answer,
    (SELECT count(*) FROM batch_log WHERE user_id = :user_id) AS batch_log,
    (SELECT count(*) FROM message WHERE user_id = :user_id OR lower(body) LIKE '%' || :user_id || '%') AS message,
    (SELECT count(*) FROM rejected_item WHERE lower(body) LIKE '%' || :user_id || '%') AS rejected_item

-- name: purge_attempt_events
DELETE FROM attempt_events WHERE user_id = :user_id

-- name: purge_telemetry
DELETE FROM telemetry WHERE user_id = :user_id

-- name: purge_session_answer
-- Before the sessions that say whose they are.
DELETE FROM session_answer WHERE session_id IN (SELECT session_id FROM learner_session WHERE user_id = :user_id)

-- name: purge_learner_session
DELETE FROM learner_session WHERE user_id = :user_id

-- name: purge_batch_log
DELETE FROM batch_log WHERE user_id = :user_id

-- name: purge_message
-- A device's message names its user inside, if at all.
DELETE FROM message WHERE user_id = :user_id OR lower(body) LIKE '%' || :user_id || '%'

-- name: purge_rejected_item
DELETE FROM rejected_item WHERE lower(body) LIKE '%' || :user_id || '%'

-- name: purge_stale_attempt_events
-- Ranges follow each other without a gap: the one that holds an ord is the last that begins before it.
UPDATE export_range SET state = 'stale' WHERE dataset = 'attempt_events' AND from_ord IN (
    SELECT (SELECT max(r.from_ord) FROM export_range AS r WHERE r.dataset = 'attempt_events' AND r.from_ord < e.ord)
    FROM attempt_events AS e
    WHERE e.user_id = :user_id AND e.ord <= (SELECT max(to_ord) FROM export_range WHERE dataset = 'attempt_events')
)

-- name: purge_stale_telemetry
-- Of a range that has fewer rows here than in its files (retention) nobody knows whose those are: it is looked through.
UPDATE export_range SET state = 'stale' WHERE dataset = 'telemetry' AND (
    from_ord IN (
        SELECT (SELECT max(r.from_ord) FROM export_range AS r WHERE r.dataset = 'telemetry' AND r.from_ord < e.ord)
        FROM telemetry AS e
        WHERE e.user_id = :user_id AND e.ord <= (SELECT max(to_ord) FROM export_range WHERE dataset = 'telemetry')
    )
    OR rows_count <> (
        SELECT count(*) FROM telemetry AS t WHERE t.ord > export_range.from_ord AND t.ord <= export_range.to_ord
    )
)

-- name: purge_stale_sessions
UPDATE export_range SET state = 'stale' WHERE dataset = 'sessions'
    AND EXISTS (SELECT 1 FROM learner_session WHERE user_id = :user_id)
