-- PostgreSQL: keys of a group come as one array per column.

-- name: learner_session_for_update
-- PostgreSQL only: FOR UPDATE, so that two calls never change one session at once.
SELECT * FROM learner_session WHERE session_id = :session_id FOR UPDATE

-- name: learner_sessions_due
-- PostgreSQL only: SKIP LOCKED, what somebody works at is ended by them.
SELECT * FROM learner_session
WHERE state = 'active' AND dk = 0 AND expires_at_ms <= :now_ms ORDER BY expires_at_ms LIMIT :row_limit
FOR UPDATE SKIP LOCKED

-- name: known_learner_sessions
-- PostgreSQL only: FOR UPDATE, in one order, so that two groups never merge into one session at once or deadlock.
SELECT * FROM learner_session WHERE session_id = ANY($1::text[]) ORDER BY session_id FOR UPDATE

-- name: known_session_answers
SELECT a.* FROM unnest($1::text[], $2::text[]) AS k (session_id, question_id)
JOIN session_answer AS a ON a.session_id = k.session_id AND a.question_id = k.question_id

-- name: learner_session_owners
SELECT session_id, user_id, question_ids FROM learner_session WHERE session_id = ANY($1::text[])

-- name: add_learner_sessions
INSERT INTO learner_session (
    user_id, dk, mode, filters, question_ids, state, rev, created_at_ms, expires_at_ms, ended_at_ms, updated_at_ms,
    session_id
)
SELECT * FROM unnest(
    $1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[],
    $9::bigint[], $10::bigint[], $11::bigint[], $12::text[]
)

-- name: fill_learner_sessions
-- What a session is made of; the rest is moved by move_learner_sessions.
UPDATE learner_session AS s SET
    mode = v.mode, filters = v.filters, question_ids = v.question_ids, created_at_ms = v.created_at_ms,
    expires_at_ms = v.expires_at_ms
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[])
    AS v (mode, filters, question_ids, created_at_ms, expires_at_ms, session_id)
WHERE s.session_id = v.session_id

-- name: move_learner_sessions
UPDATE learner_session AS s SET
    state = v.state, rev = v.rev, ended_at_ms = v.ended_at_ms, updated_at_ms = v.updated_at_ms
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[])
    AS v (state, rev, ended_at_ms, updated_at_ms, session_id)
WHERE s.session_id = v.session_id

-- name: save_session_answers
INSERT INTO session_answer (session_id, question_id, position, selected_index, marked, rev, answered_at_ms)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[]
)
ON CONFLICT (session_id, question_id) DO UPDATE SET
    position = excluded.position, selected_index = excluded.selected_index, marked = excluded.marked,
    rev = excluded.rev, answered_at_ms = excluded.answered_at_ms
