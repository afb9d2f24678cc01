-- name: commands_generation
-- Rises with every command that is asked for or over, by whichever process.
SELECT value FROM generation WHERE name = 'commands'

-- name: commands_changed
UPDATE generation SET value = value + 1 WHERE name = 'commands'

-- name: commands_open
SELECT id, dk, kind, state FROM device_command WHERE state IN ('pending', 'sent') ORDER BY created_at_ms, id

-- name: commands_sent
UPDATE device_command SET state = 'sent', sent_at_ms = :now_ms WHERE dk = :dk AND state = 'pending'

-- name: expire_commands
UPDATE device_command
SET state = 'expired', ended_at_ms = :now_ms, detail = 'the device was not heard of, or did not say what came of it'
WHERE state IN ('pending', 'sent') AND created_at_ms < :before_ms

-- name: drop_commands
DELETE FROM device_command WHERE ended_at_ms < :before_ms

-- name: command_one
SELECT id, kind, state, detail, created_by, created_at_ms, sent_at_ms, ended_at_ms FROM device_command WHERE id = :id

-- name: commands_page
SELECT id, kind, state, detail, created_by, created_at_ms, sent_at_ms, ended_at_ms FROM device_command
WHERE dk = :dk ORDER BY created_at_ms DESC, id LIMIT :row_limit OFFSET :row_offset

-- name: commands_count
SELECT count(*) FROM device_command WHERE dk = :dk
