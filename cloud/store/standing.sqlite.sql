-- name: standings_due
-- The write transaction already keeps everyone else out.
SELECT h.*, s.last_seen_at_ms AS seen_ms, s.events_total AS events, s.alert_opened_at_ms AS alert_at_ms,
       s.consecutive_failures AS failures, s.last_error_code AS error_code, s.last_queue_depth AS queue_depth, s.shut_out
FROM device_standing AS h JOIN device_state AS s ON s.dk = h.dk
WHERE h.dk > :after AND (
    coalesce(s.last_seen_at_ms, 0) <> h.heard_ms OR s.events_total <> h.heard_events OR h.due_at_ms <= :now_ms
    OR s.shut_out <> CASE WHEN h.under = 'retired' THEN 1 ELSE 0 END)
ORDER BY h.dk LIMIT :row_limit

-- name: standings_for_update
SELECT h.* FROM json_each(:rows) AS k CROSS JOIN device_standing AS h ON h.dk = k.value ->> 0

-- name: save_standings
UPDATE device_standing SET
    state = ?2, under = ?3, since_ms = ?4, reason = ?5, detail = ?6, muted_until_ms = ?7, flap_score = ?8,
    flap_at_ms = ?9, flapping = ?10, heard_ms = ?11, heard_events = ?12, due_at_ms = ?13, rhythm = ?14,
    backlog = ?15, backlog_at_ms = ?16, drain_per_s = ?17, clear_at_ms = ?18
WHERE dk = ?1

-- name: keep_standings
-- Those whose state is what it was: an index on columns that stand in SET is written anew for each row.
UPDATE device_standing SET
    under = ?3, muted_until_ms = ?7, flap_score = ?8, flap_at_ms = ?9, flapping = ?10, heard_ms = ?11,
    heard_events = ?12, due_at_ms = ?13, rhythm = ?14, backlog = ?15, backlog_at_ms = ?16, drain_per_s = ?17,
    clear_at_ms = ?18
WHERE dk = ?1

-- name: add_transitions
INSERT INTO device_transition (dk, old_state, new_state, reason, detail, at_ms) VALUES (?, ?, ?, ?, ?, ?)
