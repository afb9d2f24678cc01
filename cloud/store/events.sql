-- name: open_notification
-- One open notification per device and kind, whoever else tries.
INSERT INTO notification (dk, kind, opened_at_ms, consecutive_failures, last_error_code)
VALUES (:dk, :kind, :now_ms, :streak, :error_code)
ON CONFLICT DO NOTHING

-- name: close_notification
UPDATE notification SET
    closed_at_ms = :now_ms,
    consecutive_failures = CASE WHEN consecutive_failures < :streak THEN :streak ELSE consecutive_failures END
WHERE dk = :dk AND kind = :kind AND closed_at_ms IS NULL

-- name: drop_old_batches
DELETE FROM batch_log WHERE received_at_ms < :before_ms

-- name: stream_marks_of
SELECT stream, received_through FROM stream_mark WHERE dk = :dk ORDER BY stream

-- name: add_to_hour
INSERT INTO sync_hour AS h (hour_ms, slot, success, partial, failed, files, bytes)
VALUES (:hour_ms, :slot, :success, :partial, :failed, :files, :bytes)
ON CONFLICT (hour_ms, slot) DO UPDATE SET success = h.success + excluded.success,
    partial = h.partial + excluded.partial, failed = h.failed + excluded.failed, files = h.files + excluded.files,
    bytes = h.bytes + excluded.bytes

-- name: drop_hours
DELETE FROM sync_hour WHERE hour_ms < :before_ms
