-- name: known^
-- What was taken in before under this key.
SELECT digest, wall_ms FROM taken WHERE key = :key;

-- name: add_taken!
INSERT INTO taken (key, digest, wall_ms) VALUES (:key, :digest, :wall_ms);

-- name: surplus_taken$
SELECT coalesce(max(ord) - min(ord) + 1, 0) - :keep FROM taken;

-- name: trim_taken!
DELETE FROM taken WHERE ord <= (SELECT max(ord) FROM taken) - :keep;

-- name: holder^
-- Whose session it is, and whether it holds the question. Ids are of one form, so that one is found in the list as text.
SELECT user_id, :question_id IS NULL OR instr(question_ids, :question_id) > 0 AS holds
FROM sessions WHERE id = :session_id;

-- name: session^
SELECT id, user_id, mode, filters, question_ids, state, rev, due_at_ms, created_wall_ms, expires_wall_ms,
    ended_wall_ms, updated_wall_ms
FROM sessions WHERE id = :id;

-- name: add_session!
INSERT INTO sessions (id, user_id, mode, filters, question_ids, state, rev, due_at_ms, changed_at_ms, created_wall_ms,
    expires_wall_ms, ended_wall_ms, updated_wall_ms)
VALUES (:id, :user_id, :mode, :filters, :question_ids, :state, :rev, :due_at_ms, :changed_at_ms, :created_wall_ms,
    :expires_wall_ms, :ended_wall_ms, :updated_wall_ms);

-- name: change_session!
UPDATE sessions SET state = :state, rev = :rev, changed_at_ms = :changed_at_ms, ended_wall_ms = :ended_wall_ms,
    updated_wall_ms = :updated_wall_ms
WHERE id = :id;

-- name: answer^
SELECT session_id, question_id, position, selected_index, marked, rev, answered_wall_ms
FROM answers WHERE session_id = :session_id AND question_id = :question_id;

-- name: answers_of
SELECT session_id, question_id, position, selected_index, marked, rev, answered_wall_ms
FROM answers WHERE session_id = :session_id ORDER BY position;

-- name: set_answer!
INSERT INTO answers (session_id, question_id, position, selected_index, marked, rev, answered_wall_ms)
VALUES (:session_id, :question_id, :position, :selected_index, :marked, :rev, :answered_wall_ms)
ON CONFLICT (session_id, question_id) DO UPDATE SET selected_index = excluded.selected_index,
    marked = excluded.marked, rev = excluded.rev, answered_wall_ms = excluded.answered_wall_ms;

-- name: due_sessions
SELECT id FROM sessions WHERE state = 'active' AND due_at_ms <= :now_ms ORDER BY due_at_ms LIMIT :most;

-- name: next_due$
SELECT min(due_at_ms) FROM sessions WHERE state = 'active' AND due_at_ms IS NOT NULL;

-- name: count_active$
SELECT count(*) FROM sessions WHERE state = 'active';

-- name: surplus_sessions$
SELECT count(*) - :keep FROM sessions WHERE state <> 'active';

-- name: trim_sessions!
-- The newest sessions that have ended are kept to look at.
DELETE FROM sessions WHERE id IN (
    SELECT id FROM sessions WHERE state <> 'active' ORDER BY changed_at_ms DESC, id LIMIT -1 OFFSET :keep
);

-- name: spooled^
SELECT * FROM spooled WHERE name = :name;

-- name: set_spooled!
INSERT OR REPLACE INTO spooled (name, inode, base, tail, size, offset, lines, refused, refused_bytes, reasons_bytes,
    first_reason, done)
VALUES (:name, :inode, :base, :tail, :size, :offset, :lines, :refused, :refused_bytes, :reasons_bytes, :first_reason,
    :done);

-- name: forget_spooled!
DELETE FROM spooled WHERE name = :name;

-- name: spooled_names
SELECT name FROM spooled;
