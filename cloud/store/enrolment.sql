-- name: add_code
INSERT INTO enroll_code (code_hash, device_id, site, groups, tags, created_by, created_at_ms, expires_at_ms)
VALUES (:code_hash, :device_id, :site, :groups, :tags, :created_by, :now_ms, :expires_at_ms)

-- name: code_by_hash
SELECT * FROM enroll_code WHERE code_hash = :code_hash

-- name: use_code
-- Whoever comes first has it.
UPDATE enroll_code SET used_at_ms = :now_ms, used_by = :device_id
WHERE code_hash = :code_hash AND used_at_ms IS NULL AND expires_at_ms > :now_ms

-- name: codes
SELECT code_hash, device_id, site, groups, tags, created_by, created_at_ms, expires_at_ms, used_at_ms, used_by
FROM enroll_code ORDER BY created_at_ms DESC, code_hash LIMIT :row_limit

-- name: drop_code
DELETE FROM enroll_code WHERE code_hash LIKE :beginning AND used_at_ms IS NULL

-- name: drop_codes
DELETE FROM enroll_code WHERE expires_at_ms < :before_ms

-- name: add_fleet_key
INSERT INTO fleet_key (
    key_hash, name, site, groups, tags, auto_accept, devices_max, created_by, created_at_ms, expires_at_ms
) VALUES (
    :key_hash, :name, :site, :groups, :tags, :auto_accept, :devices_max, :created_by, :now_ms, :expires_at_ms
)

-- name: fleet_key_by_hash
SELECT k.*, (SELECT count(*) FROM enroll_request AS r WHERE r.fleet_key = k.name AND r.state = 'accepted') AS devices
FROM fleet_key AS k WHERE k.key_hash = :key_hash

-- name: fleet_keys
SELECT k.*, (SELECT count(*) FROM enroll_request AS r WHERE r.fleet_key = k.name AND r.state = 'accepted') AS devices
FROM fleet_key AS k ORDER BY k.name

-- name: revoke_fleet_key
UPDATE fleet_key SET revoked_at_ms = :now_ms WHERE name = :name AND revoked_at_ms IS NULL

-- name: device_of_token
SELECT dk FROM device_token
WHERE token_hash = :token_hash AND (expires_at_ms IS NULL OR expires_at_ms > :now_ms)

-- name: request_by_token
SELECT * FROM enroll_request WHERE token_hash = :token_hash

-- name: request_by_device
SELECT * FROM enroll_request WHERE device_id = :device_id AND state = 'pending' ORDER BY last_at_ms DESC LIMIT 2

-- name: add_request
INSERT INTO enroll_request (
    id, device_id, token_hash, fleet_key, state, known, hardware, address, first_at_ms, last_at_ms, decided_at_ms,
    decided_by
) VALUES (
    :id, :device_id, :token_hash, :fleet_key, :state, :known, :hardware, :address, :now_ms, :now_ms, :decided_at_ms,
    :decided_by
)

-- name: touch_request
UPDATE enroll_request SET last_at_ms = :now_ms, address = :address WHERE id = :id

-- name: decide_request
UPDATE enroll_request SET state = :state, decided_at_ms = :now_ms, decided_by = :decided_by
WHERE id = :id AND state = 'pending'

-- name: requests
SELECT r.*, k.site, k.groups, k.tags FROM enroll_request AS r LEFT JOIN fleet_key AS k ON k.name = r.fleet_key
WHERE r.state = :state ORDER BY r.first_at_ms, r.id LIMIT :row_limit

-- name: requests_pending
SELECT count(*) AS devices, count(CASE WHEN address = :address THEN 1 END) AS of_address FROM enroll_request
WHERE state = 'pending' AND fleet_key = :fleet_key

-- name: drop_requests
DELETE FROM enroll_request WHERE state = 'pending' AND last_at_ms < :before_ms

-- name: fleet_key_by_name
SELECT * FROM fleet_key WHERE name = :name
