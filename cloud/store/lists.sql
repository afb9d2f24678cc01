-- name: history_page
-- The page is chosen in the index alone; only its own rows are read from the table.
SELECT e.id, e.event_id, e.occurred_at_ms, e.received_at_ms, e.sent_timestamp, e.files_synced, e.errors, e.speed_mbps,
       e.status, e.consecutive_failures, e.time_flags, e.seq, e.error_code, e.bytes_sent, e.duration_ms, e.queue_depth
FROM sync_event AS e
JOIN (
    SELECT id FROM sync_event
    WHERE dk = :dk AND occurred_at_ms >= :from_ms AND occurred_at_ms < :to_ms
      AND (occurred_at_ms, id) < (:before_ms, :before_id)
      AND (CAST(:status AS TEXT) IS NULL OR status = :status)
    ORDER BY occurred_at_ms DESC, id DESC LIMIT :row_limit OFFSET :row_offset
) AS page ON page.id = e.id
ORDER BY e.occurred_at_ms DESC, e.id DESC

-- name: history_count
-- Only for a span of time: the totals of a whole history are counters.
SELECT count(*) FROM sync_event
WHERE dk = :dk AND occurred_at_ms >= :from_ms AND occurred_at_ms < :to_ms
  AND (CAST(:status AS TEXT) IS NULL OR status = :status)

-- name: device_state_by_dk
SELECT d.device_id, d.enrolled_at_ms, d.revoked_at_ms, s.*
FROM device AS d JOIN device_state AS s ON s.dk = d.dk WHERE d.dk = :dk

-- name: failures_by_total
-- Both conditions on purpose: the first one lets SQLite use the partial index.
SELECT s.dk, d.device_id, s.failed_total AS failed_total, s.consecutive_failures, s.last_success_at_ms, s.last_failed_at_ms,
       s.last_error_code, s.last_status, s.alert_opened_at_ms, s.updated_at_ms
FROM device_state AS s JOIN device AS d ON d.dk = s.dk
WHERE s.failed_total > 0 AND s.shut_out = 0 AND s.failed_total > :threshold
  AND (CAST(:from_ms AS BIGINT) IS NULL OR s.last_failed_at_ms >= :from_ms)
  AND (CAST(:group_name AS TEXT) IS NULL OR EXISTS (
    SELECT 1 FROM group_member AS m WHERE m.dk = s.dk AND m.name = :group_name))
  AND (CAST(:acknowledged AS BIGINT) IS NULL OR :acknowledged = CASE WHEN EXISTS (
    SELECT 1 FROM incident_member AS m JOIN incident AS i ON i.id = m.incident_id
    WHERE m.dk = s.dk AND m.left_at_ms IS NULL AND i.state = 'acknowledged') THEN 1 ELSE 0 END)
ORDER BY s.failed_total DESC, s.dk LIMIT :row_limit OFFSET :row_offset

-- name: failures_by_total_count
SELECT count(*) FROM device_state AS s
WHERE s.failed_total > 0 AND s.shut_out = 0 AND s.failed_total > :threshold
  AND (CAST(:from_ms AS BIGINT) IS NULL OR s.last_failed_at_ms >= :from_ms)
  AND (CAST(:group_name AS TEXT) IS NULL OR EXISTS (
    SELECT 1 FROM group_member AS m WHERE m.dk = s.dk AND m.name = :group_name))
  AND (CAST(:acknowledged AS BIGINT) IS NULL OR :acknowledged = CASE WHEN EXISTS (
    SELECT 1 FROM incident_member AS m JOIN incident AS i ON i.id = m.incident_id
    WHERE m.dk = s.dk AND m.left_at_ms IS NULL AND i.state = 'acknowledged') THEN 1 ELSE 0 END)

-- name: failures_by_streak
SELECT s.dk, d.device_id, s.failed_total AS failed_total, s.consecutive_failures, s.last_success_at_ms, s.last_failed_at_ms,
       s.last_error_code, s.last_status, s.alert_opened_at_ms, s.updated_at_ms
FROM device_state AS s JOIN device AS d ON d.dk = s.dk
WHERE s.consecutive_failures > 0 AND s.shut_out = 0 AND s.consecutive_failures > :threshold
  AND (CAST(:from_ms AS BIGINT) IS NULL OR s.last_failed_at_ms >= :from_ms)
  AND (CAST(:group_name AS TEXT) IS NULL OR EXISTS (
    SELECT 1 FROM group_member AS m WHERE m.dk = s.dk AND m.name = :group_name))
  AND (CAST(:acknowledged AS BIGINT) IS NULL OR :acknowledged = CASE WHEN EXISTS (
    SELECT 1 FROM incident_member AS m JOIN incident AS i ON i.id = m.incident_id
    WHERE m.dk = s.dk AND m.left_at_ms IS NULL AND i.state = 'acknowledged') THEN 1 ELSE 0 END)
ORDER BY s.consecutive_failures DESC, s.dk LIMIT :row_limit OFFSET :row_offset

-- name: failures_by_streak_count
SELECT count(*) FROM device_state AS s
WHERE s.consecutive_failures > 0 AND s.shut_out = 0 AND s.consecutive_failures > :threshold
  AND (CAST(:from_ms AS BIGINT) IS NULL OR s.last_failed_at_ms >= :from_ms)
  AND (CAST(:group_name AS TEXT) IS NULL OR EXISTS (
    SELECT 1 FROM group_member AS m WHERE m.dk = s.dk AND m.name = :group_name))
  AND (CAST(:acknowledged AS BIGINT) IS NULL OR :acknowledged = CASE WHEN EXISTS (
    SELECT 1 FROM incident_member AS m JOIN incident AS i ON i.id = m.incident_id
    WHERE m.dk = s.dk AND m.left_at_ms IS NULL AND i.state = 'acknowledged') THEN 1 ELSE 0 END)

-- name: failures_in_window
-- By what is in the history since then. Who has not failed so often in all is left out before anything is counted.
SELECT * FROM (
    SELECT s.dk, d.device_id, (SELECT count(*) FROM sync_event AS e
        WHERE e.dk = s.dk AND e.occurred_at_ms >= :from_ms AND e.status = 'failed') AS failed_total, s.consecutive_failures, s.last_success_at_ms, s.last_failed_at_ms,
       s.last_error_code, s.last_status, s.alert_opened_at_ms, s.updated_at_ms
    FROM device_state AS s JOIN device AS d ON d.dk = s.dk
    WHERE s.failed_total > 0 AND s.shut_out = 0 AND s.failed_total > :threshold
  AND (CAST(:from_ms AS BIGINT) IS NULL OR s.last_failed_at_ms >= :from_ms)
  AND (CAST(:group_name AS TEXT) IS NULL OR EXISTS (
    SELECT 1 FROM group_member AS m WHERE m.dk = s.dk AND m.name = :group_name))
  AND (CAST(:acknowledged AS BIGINT) IS NULL OR :acknowledged = CASE WHEN EXISTS (
    SELECT 1 FROM incident_member AS m JOIN incident AS i ON i.id = m.incident_id
    WHERE m.dk = s.dk AND m.left_at_ms IS NULL AND i.state = 'acknowledged') THEN 1 ELSE 0 END)
) AS found WHERE failed_total > :threshold
ORDER BY failed_total DESC, dk LIMIT :row_limit OFFSET :row_offset

-- name: failures_in_window_count
SELECT count(*) FROM (
    SELECT (SELECT count(*) FROM sync_event AS e
        WHERE e.dk = s.dk AND e.occurred_at_ms >= :from_ms AND e.status = 'failed') AS failed_total FROM device_state AS s
    WHERE s.failed_total > 0 AND s.shut_out = 0 AND s.failed_total > :threshold
  AND (CAST(:from_ms AS BIGINT) IS NULL OR s.last_failed_at_ms >= :from_ms)
  AND (CAST(:group_name AS TEXT) IS NULL OR EXISTS (
    SELECT 1 FROM group_member AS m WHERE m.dk = s.dk AND m.name = :group_name))
  AND (CAST(:acknowledged AS BIGINT) IS NULL OR :acknowledged = CASE WHEN EXISTS (
    SELECT 1 FROM incident_member AS m JOIN incident AS i ON i.id = m.incident_id
    WHERE m.dk = s.dk AND m.left_at_ms IS NULL AND i.state = 'acknowledged') THEN 1 ELSE 0 END)
) AS found WHERE failed_total > :threshold

-- name: notifications_page
SELECT n.id, d.device_id, n.kind, n.opened_at_ms, n.closed_at_ms, n.consecutive_failures, n.last_error_code
FROM notification AS n JOIN device AS d ON d.dk = n.dk
WHERE n.id < :before_id AND (CAST(:dk AS BIGINT) IS NULL OR n.dk = :dk)
  AND (CAST(:is_open AS INTEGER) IS NULL OR (CASE WHEN n.closed_at_ms IS NULL THEN 1 ELSE 0 END) = :is_open)
ORDER BY n.id DESC LIMIT :row_limit OFFSET :row_offset

-- name: notifications_count
SELECT count(*) FROM notification AS n
WHERE (CAST(:dk AS BIGINT) IS NULL OR n.dk = :dk)
  AND (CAST(:is_open AS INTEGER) IS NULL OR (CASE WHEN n.closed_at_ms IS NULL THEN 1 ELSE 0 END) = :is_open)

-- name: batches_page
SELECT id, batch_id, items, successful, failed, conflicts, duplicates, received_at_ms, duration_ms, errors,
       conflict_details
FROM batch_log WHERE dk = :dk AND user_id = :user_id AND id < :before_id
ORDER BY id DESC LIMIT :row_limit OFFSET :row_offset

-- name: batches_count
SELECT count(*) FROM batch_log WHERE dk = :dk AND user_id = :user_id

-- name: batch_totals
SELECT count(*) AS batches, coalesce(sum(items), 0) AS items, coalesce(sum(successful + duplicates), 0) AS accepted,
       coalesce(avg(duration_ms), 0) AS duration_ms, max(received_at_ms) AS last_at_ms
FROM batch_log WHERE dk = :dk AND user_id = :user_id

-- name: last_rejected
SELECT code, detail, received_at_ms FROM rejected_item WHERE dk = :dk ORDER BY id DESC LIMIT 1

-- name: rejected_page
SELECT id, item_id, item_type, stream, seq, code, detail, received_at_ms FROM rejected_item
WHERE dk = :dk ORDER BY id DESC LIMIT :row_limit

-- name: fleet_totals
SELECT count(*) AS devices, coalesce(sum(events_total), 0) AS events, coalesce(sum(files_synced_total), 0) AS files,
       coalesce(sum(CASE WHEN alert_opened_at_ms IS NOT NULL AND shut_out = 0 THEN 1 ELSE 0 END), 0) AS alerts
FROM device_state

-- name: ping
SELECT 1

-- name: uploads_underway
SELECT id, kind, path, length_bytes, created_at_ms FROM upload
WHERE dk = :dk AND state = 'receiving' ORDER BY created_at_ms DESC, id LIMIT :row_limit
