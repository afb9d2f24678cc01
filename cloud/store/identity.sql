-- name: identity_generation
-- Rises with every change of tokens and keys, by whichever process.
SELECT value FROM generation WHERE name = 'identity'

-- name: identity_changed
UPDATE generation SET value = value + 1 WHERE name = 'identity'

-- name: device_by_token
-- Who holds this token now; an expired token or a revoked device is nobody.
SELECT device.dk, device.device_id, device.rotate_at_ms, device_token.expires_at_ms, device_token.created_at_ms,
       device_token.used_at_ms, EXISTS (
         SELECT 1 FROM device_token AS older
         WHERE older.dk = device.dk AND older.created_at_ms < device_token.created_at_ms
           AND (older.expires_at_ms IS NULL OR older.expires_at_ms > :now_ms)) AS succeeds
FROM device_token JOIN device ON device.dk = device_token.dk
WHERE device_token.token_hash = :token_hash
  AND (device_token.expires_at_ms IS NULL OR device_token.expires_at_ms > :now_ms)
  AND device.revoked_at_ms IS NULL

-- name: token_used
UPDATE device_token SET used_at_ms = :now_ms WHERE token_hash = :token_hash AND used_at_ms IS NULL

-- name: end_older_tokens
-- With the first use of a token: those before it.
UPDATE device_token SET expires_at_ms = :ends_at_ms
WHERE dk = :dk AND created_at_ms < :created_at_ms
  AND (expires_at_ms IS NULL OR expires_at_ms > :ends_at_ms)

-- name: end_unused_tokens
-- Tokens that were given after the one in use, and whose answer may have been lost on its way.
UPDATE device_token SET expires_at_ms = :ends_at_ms
WHERE dk = :dk AND used_at_ms IS NULL AND created_at_ms > :token_at_ms AND (expires_at_ms IS NULL OR expires_at_ms > :ends_at_ms)

-- name: drop_ended_tokens
DELETE FROM device_token WHERE dk = :dk AND expires_at_ms < :before_ms

-- name: rotate_device
UPDATE device SET rotate_at_ms = :at_ms WHERE dk = :dk AND revoked_at_ms IS NULL

-- name: rotated_device
UPDATE device SET rotate_at_ms = NULL WHERE dk = :dk AND rotate_at_ms <= :at_ms

-- name: key_by_hash
SELECT name, role, groups, scopes, expires_at_ms FROM api_key
WHERE key_hash = :key_hash AND revoked_at_ms IS NULL AND (expires_at_ms IS NULL OR expires_at_ms > :now_ms)

-- name: session_by_hash
SELECT operator.name, operator.grants, web_session.expires_at_ms
FROM web_session JOIN operator ON operator.name = web_session.operator
WHERE web_session.session_hash = :session_hash
  AND web_session.expires_at_ms > :now_ms AND operator.disabled_at_ms IS NULL

-- name: device_by_id
SELECT dk, device_id, enrolled_at_ms, revoked_at_ms FROM device WHERE device_id = :device_id

-- name: add_device
INSERT INTO device (device_id, enrolled_at_ms) VALUES (:device_id, :now_ms) RETURNING dk

-- name: add_device_state
INSERT INTO device_state (dk, updated_at_ms) VALUES (:dk, :now_ms)

-- name: add_standing
INSERT INTO device_standing (dk, since_ms) VALUES (:dk, :now_ms)

-- name: groups_of_device
SELECT name, kind FROM group_member WHERE dk = :dk ORDER BY name

-- name: restore_device
UPDATE device SET revoked_at_ms = NULL WHERE dk = :dk

-- name: revoke_device
UPDATE device SET revoked_at_ms = :now_ms WHERE dk = :dk AND revoked_at_ms IS NULL

-- name: mark_device_state
UPDATE device_state SET shut_out = :shut_out WHERE dk = :dk

-- name: add_device_token
INSERT INTO device_token (token_hash, dk, created_at_ms) VALUES (:token_hash, :dk, :now_ms)

-- name: end_device_tokens
-- Tokens that would live longer than `ends_at_ms` end then.
UPDATE device_token SET expires_at_ms = :ends_at_ms
WHERE dk = :dk AND (expires_at_ms IS NULL OR expires_at_ms > :ends_at_ms)

-- name: add_key
INSERT INTO api_key (key_hash, name, role, created_at_ms, groups, scopes, expires_at_ms)
VALUES (:key_hash, :name, :role, :now_ms, :groups, :scopes, :expires_at_ms)

-- name: keys
SELECT name, role, created_at_ms, revoked_at_ms, groups, scopes, expires_at_ms FROM api_key ORDER BY created_at_ms, name

-- name: role_of_key
SELECT role FROM api_key WHERE name = :name AND revoked_at_ms IS NULL

-- name: revoke_key
UPDATE api_key SET revoked_at_ms = :now_ms WHERE name = :name AND revoked_at_ms IS NULL

-- name: add_session
INSERT INTO web_session (session_hash, operator, created_at_ms, expires_at_ms)
VALUES (:session_hash, :operator, :now_ms, :expires_at_ms)

-- name: drop_session
DELETE FROM web_session WHERE session_hash = :session_hash

-- name: drop_expired_sessions
DELETE FROM web_session WHERE expires_at_ms <= :now_ms
