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
    (SELECT count(*) FROM rejected_item WHERE lower(body) LIKE '%' || :user_id || '%') AS rejected_item,
    (SELECT count(*) FROM record AS r WHERE r.purged = 0 AND (lower(r.id) = :user_id OR EXISTS (
        SELECT 1 FROM record_scope AS s
        WHERE s.type = r.type AND s.id = r.id AND s.kind = 'user' AND lower(s.value) = :user_id AND s.gone = 0
    ))) AS record,
    (SELECT count(*) FROM conflict AS c
     WHERE lower(c.decision) LIKE '%' || :user_id || '%' OR lower(coalesce(c.resolution, '')) LIKE '%' || :user_id || '%'
        OR EXISTS (
            SELECT 1 FROM record_scope AS s
            WHERE s.type = c.type AND s.id = c.record_id AND s.kind = 'user' AND lower(s.value) = :user_id
        )) AS conflict,
    (SELECT count(*) FROM subscription WHERE kind = 'user' AND lower(value) = :user_id) AS subscription,
    (SELECT count(*) FROM webhook_attempt AS a WHERE a.delivery_id IN (
        SELECT d.id FROM webhook_delivery AS d JOIN webhook_event AS e ON e.ord = d.event_ord
        WHERE lower(e.user_id) = :user_id OR lower(e.body) LIKE '%' || :user_id || '%'
    )) AS webhook_attempt,
    (SELECT count(*) FROM webhook_delivery AS d WHERE d.event_ord IN (
        SELECT e.ord FROM webhook_event AS e
        WHERE lower(e.user_id) = :user_id OR lower(e.body) LIKE '%' || :user_id || '%'
    )) AS webhook_delivery,
    (SELECT count(*) FROM webhook_event
     WHERE lower(user_id) = :user_id OR lower(body) LIKE '%' || :user_id || '%') AS webhook_event,
    (SELECT count(*) FROM webhook_inbound WHERE lower(answer) LIKE '%' || :user_id || '%') AS webhook_inbound

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

-- name: purge_conflict
-- While it is known whose the records are.
DELETE FROM conflict
WHERE lower(decision) LIKE '%' || :user_id || '%' OR lower(coalesce(resolution, '')) LIKE '%' || :user_id || '%'
   OR EXISTS (
        SELECT 1 FROM record_scope AS s
        WHERE s.type = conflict.type AND s.id = conflict.record_id AND s.kind = 'user' AND lower(s.value) = :user_id
   )

-- name: purge_records_of
-- Those that are the user's now: what was another's since is that one's.
SELECT r.type, r.id FROM record AS r
WHERE r.purged = 0 AND (lower(r.id) = :user_id OR EXISTS (
    SELECT 1 FROM record_scope AS s
    WHERE s.type = r.type AND s.id = r.id AND s.kind = 'user' AND lower(s.value) = :user_id AND s.gone = 0
))
ORDER BY r.change

-- name: purge_one_record
-- Nothing is left but that it is gone, at the end of the feed, so that devices drop their copies.
UPDATE record SET state = '{}', fields = '{}', deleted = 1, purged = 1, change = :change, updated_at_ms = :now_ms
WHERE type = :type AND id = :id

-- name: purge_one_record_scopes
UPDATE record_scope SET gone = 1 WHERE type = :type AND id = :id

-- name: purge_record_scopes
-- Who is subscribed to the user fetches anew, for the subscription goes as well: nobody needs these.
DELETE FROM record_scope WHERE kind = 'user' AND lower(value) = :user_id

-- name: purge_subscription
DELETE FROM subscription WHERE kind = 'user' AND lower(value) = :user_id

-- name: purge_webhook_attempt
-- Before the deliveries, and those before the events, that say whose they are.
DELETE FROM webhook_attempt WHERE delivery_id IN (
    SELECT d.id FROM webhook_delivery AS d JOIN webhook_event AS e ON e.ord = d.event_ord
    WHERE lower(e.user_id) = :user_id OR lower(e.body) LIKE '%' || :user_id || '%'
)

-- name: purge_webhook_delivery
DELETE FROM webhook_delivery WHERE event_ord IN (
    SELECT e.ord FROM webhook_event AS e
    WHERE lower(e.user_id) = :user_id OR lower(e.body) LIKE '%' || :user_id || '%'
)

-- name: purge_webhook_event
DELETE FROM webhook_event WHERE lower(user_id) = :user_id OR lower(body) LIKE '%' || :user_id || '%'

-- name: purge_webhook_inbound
DELETE FROM webhook_inbound WHERE lower(answer) LIKE '%' || :user_id || '%'

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
