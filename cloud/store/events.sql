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
