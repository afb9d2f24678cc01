-- name: operator_by_name
SELECT name, password_hash, grants, created_at_ms, updated_at_ms, disabled_at_ms FROM operator WHERE name = :name

-- name: operators
SELECT name, password_hash, grants, created_at_ms, updated_at_ms, disabled_at_ms FROM operator ORDER BY name

-- name: add_operator
INSERT INTO operator (name, password_hash, grants, created_at_ms, updated_at_ms)
VALUES (:name, :password_hash, :grants, :now_ms, :now_ms)

-- name: save_operator
UPDATE operator SET password_hash = :password_hash, grants = :grants, disabled_at_ms = :disabled_at_ms,
    updated_at_ms = :now_ms
WHERE name = :name

-- name: remove_operator
DELETE FROM operator WHERE name = :name

-- name: end_sessions_of
DELETE FROM web_session WHERE operator = :operator

-- name: known_groups
SELECT name FROM device_group
