-- name: standings_due
-- The write transaction already keeps everyone else out.
SELECT h.*, s.last_seen_at_ms, s.events_total, s.alert_opened_at_ms, s.consecutive_failures, s.last_error_code,
       s.last_queue_depth, s.last_event_at_ms, s.shut_out
FROM device_standing AS h JOIN device_state AS s ON s.dk = h.dk
WHERE h.dk > :after AND (
    coalesce(s.last_seen_at_ms, 0) <> h.heard_ms OR s.events_total <> h.heard_events OR h.due_at_ms <= :now_ms
    OR s.shut_out <> CASE WHEN h.under = 'retired' THEN 1 ELSE 0 END)
ORDER BY h.dk LIMIT :row_limit

-- name: standings_for_update
SELECT h.* FROM json_each(:rows) AS k CROSS JOIN device_standing AS h ON h.dk = k.value ->> 0

-- name: save_standings
UPDATE device_standing SET
    state = ?, under = ?, since_ms = ?, reason = ?, detail = ?, muted_until_ms = ?,
    flap_score = ?, flap_at_ms = ?, flapping = ?, heard_ms = ?, heard_events = ?, due_at_ms = ?,
    rhythm = ?, backlog = ?, backlog_at_ms = ?, drain_per_s = ?, clear_at_ms = ?
WHERE dk = ?

-- name: add_transitions
INSERT INTO device_transition (dk, old_state, new_state, reason, detail, at_ms) VALUES (?, ?, ?, ?, ?, ?)
