-- name: learner_answers
SELECT * FROM session_answer WHERE session_id = :session_id ORDER BY position, question_id

-- name: learner_answer
SELECT * FROM session_answer WHERE session_id = :session_id AND question_id = :question_id
