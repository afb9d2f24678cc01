-- SQLite: keys of a group come as one JSON array of arrays in :rows, see events.sqlite.sql.

-- name: learner_session_for_update
-- The write transaction already keeps everyone else out.
SELECT * FROM learner_session WHERE session_id = :session_id

-- name: learner_sessions_due
SELECT * FROM learner_session
WHERE state = 'active' AND dk = 0 AND expires_at_ms <= :now_ms ORDER BY expires_at_ms LIMIT :row_limit

-- name: known_learner_sessions
SELECT s.* FROM json_each(:rows) AS k CROSS JOIN learner_session AS s ON s.session_id = k.value ->> 0

-- name: known_session_answers
SELECT a.* FROM json_each(:rows) AS k
CROSS JOIN session_answer AS a ON a.session_id = k.value ->> 0 AND a.question_id = k.value ->> 1

-- name: learner_session_owners
SELECT s.session_id, s.user_id, s.question_ids
FROM json_each(:rows) AS k CROSS JOIN learner_session AS s ON s.session_id = k.value ->> 0

-- name: add_learner_sessions
INSERT INTO learner_session (
    user_id, dk, mode, filters, question_ids, state, rev, created_at_ms, expires_at_ms, ended_at_ms, updated_at_ms,
    session_id
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: fill_learner_sessions
-- What a session is made of; the rest is moved by move_learner_sessions.
UPDATE learner_session SET mode = ?, filters = ?, question_ids = ?, created_at_ms = ?, expires_at_ms = ?
WHERE session_id = ?

-- name: move_learner_sessions
UPDATE learner_session SET state = ?, rev = ?, ended_at_ms = ?, updated_at_ms = ? WHERE session_id = ?

-- name: save_session_answers
INSERT INTO session_answer (session_id, question_id, position, selected_index, marked, rev, answered_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (session_id, question_id) DO UPDATE SET
    position = excluded.position, selected_index = excluded.selected_index, marked = excluded.marked,
    rev = excluded.rev, answered_at_ms = excluded.answered_at_ms
