-- PostgreSQL: groups come as one JSON array in :groups.

-- name: fleet_by_device_id
-- The page is chosen first, from the table that holds its order; only its own rows are read in full.
SELECT s.*, d.device_id, d.label, d.note, d.enrolled_at_ms, d.revoked_at_ms, h.state, h.under, h.since_ms,
       h.reason, h.detail, h.muted_until_ms, h.muted_by, h.mute_note, h.backlog, h.clear_at_ms, h.flapping,
       v.version, v.disk_free_percent, v.temperature_c, v.throttled,
       (SELECT m.name FROM group_member AS m WHERE m.dk = s.dk AND m.kind = 'site') AS site
FROM (
    SELECT k.dk FROM device AS k
    WHERE (CAST(:groups AS TEXT) IS NULL OR EXISTS (
        SELECT 1 FROM group_member AS r WHERE r.dk = k.dk AND r.name IN (SELECT jsonb_array_elements_text(CAST(:groups AS jsonb)))))
      AND (CAST(:keys AS TEXT) IS NULL OR k.dk = ANY (ARRAY(
        SELECT CAST(jsonb_array_elements_text(CAST(:keys AS jsonb)) AS BIGINT))))
      AND (CAST(:state AS TEXT) IS NULL OR EXISTS (
        SELECT 1 FROM device_standing AS h WHERE h.dk = k.dk AND h.state = :state))
      AND (CAST(:group_name AS TEXT) IS NULL OR EXISTS (
        SELECT 1 FROM group_member AS m WHERE m.dk = k.dk AND m.name = :group_name))
      AND (CAST(:tag AS TEXT) IS NULL OR EXISTS (SELECT 1 FROM device_tag AS t WHERE t.dk = k.dk AND t.tag = :tag))
      AND (CAST(:fault AS TEXT) IS NULL OR EXISTS (
        SELECT 1 FROM device_fault AS f WHERE f.dk = k.dk AND f.code = :fault AND f.since_ms IS NOT NULL))
      AND (CAST(:pattern AS TEXT) IS NULL OR lower(k.device_id COLLATE "C") LIKE :pattern ESCAPE '\' OR lower(k.label COLLATE "C") LIKE :pattern ESCAPE '\')
      AND (CAST(:success_from_ms AS BIGINT) IS NULL OR EXISTS (
        SELECT 1 FROM device_state AS s WHERE s.dk = k.dk AND s.last_success_at_ms >= :success_from_ms))
      AND (CAST(:success_to_ms AS BIGINT) IS NULL OR EXISTS (
        SELECT 1 FROM device_state AS s WHERE s.dk = k.dk AND s.last_success_at_ms < :success_to_ms))
      AND (CAST(:never AS BIGINT) = 0 OR EXISTS (
        SELECT 1 FROM device_state AS s WHERE s.dk = k.dk AND s.last_success_at_ms IS NULL))
    ORDER BY k.device_id LIMIT :row_limit OFFSET :row_offset
) AS page
JOIN device_state AS s ON s.dk = page.dk JOIN device AS d ON d.dk = s.dk JOIN device_standing AS h ON h.dk = s.dk
LEFT JOIN device_vitals AS v ON v.dk = s.dk
ORDER BY d.device_id

-- name: fleet_by_last_seen
SELECT s.*, d.device_id, d.label, d.note, d.enrolled_at_ms, d.revoked_at_ms, h.state, h.under, h.since_ms,
       h.reason, h.detail, h.muted_until_ms, h.muted_by, h.mute_note, h.backlog, h.clear_at_ms, h.flapping,
       v.version, v.disk_free_percent, v.temperature_c, v.throttled,
       (SELECT m.name FROM group_member AS m WHERE m.dk = s.dk AND m.kind = 'site') AS site
FROM (
    SELECT k.dk FROM device_state AS k
    WHERE (CAST(:groups AS TEXT) IS NULL OR EXISTS (
        SELECT 1 FROM group_member AS r WHERE r.dk = k.dk AND r.name IN (SELECT jsonb_array_elements_text(CAST(:groups AS jsonb)))))
      AND (CAST(:keys AS TEXT) IS NULL OR k.dk = ANY (ARRAY(
        SELECT CAST(jsonb_array_elements_text(CAST(:keys AS jsonb)) AS BIGINT))))
      AND (CAST(:state AS TEXT) IS NULL OR EXISTS (
        SELECT 1 FROM device_standing AS h WHERE h.dk = k.dk AND h.state = :state))
      AND (CAST(:group_name AS TEXT) IS NULL OR EXISTS (
        SELECT 1 FROM group_member AS m WHERE m.dk = k.dk AND m.name = :group_name))
      AND (CAST(:tag AS TEXT) IS NULL OR EXISTS (SELECT 1 FROM device_tag AS t WHERE t.dk = k.dk AND t.tag = :tag))
      AND (CAST(:fault AS TEXT) IS NULL OR EXISTS (
        SELECT 1 FROM device_fault AS f WHERE f.dk = k.dk AND f.code = :fault AND f.since_ms IS NOT NULL))
      AND (CAST(:pattern AS TEXT) IS NULL OR EXISTS (
        SELECT 1 FROM device AS d WHERE d.dk = k.dk
        AND (lower(d.device_id COLLATE "C") LIKE :pattern ESCAPE '\' OR lower(d.label COLLATE "C") LIKE :pattern ESCAPE '\')))
      AND (CAST(:success_from_ms AS BIGINT) IS NULL OR k.last_success_at_ms >= :success_from_ms)
      AND (CAST(:success_to_ms AS BIGINT) IS NULL OR k.last_success_at_ms < :success_to_ms)
      AND (CAST(:never AS BIGINT) = 0 OR k.last_success_at_ms IS NULL)
    ORDER BY coalesce(k.last_seen_at_ms, 0) DESC, k.dk LIMIT :row_limit OFFSET :row_offset
) AS page
JOIN device_state AS s ON s.dk = page.dk JOIN device AS d ON d.dk = s.dk JOIN device_standing AS h ON h.dk = s.dk
LEFT JOIN device_vitals AS v ON v.dk = s.dk
ORDER BY coalesce(s.last_seen_at_ms, 0) DESC, s.dk

-- name: fleet_by_since
SELECT s.*, d.device_id, d.label, d.note, d.enrolled_at_ms, d.revoked_at_ms, h.state, h.under, h.since_ms,
       h.reason, h.detail, h.muted_until_ms, h.muted_by, h.mute_note, h.backlog, h.clear_at_ms, h.flapping,
       v.version, v.disk_free_percent, v.temperature_c, v.throttled,
       (SELECT m.name FROM group_member AS m WHERE m.dk = s.dk AND m.kind = 'site') AS site
FROM (
    SELECT k.dk FROM device_standing AS k
    WHERE (CAST(:groups AS TEXT) IS NULL OR EXISTS (
        SELECT 1 FROM group_member AS r WHERE r.dk = k.dk AND r.name IN (SELECT jsonb_array_elements_text(CAST(:groups AS jsonb)))))
      AND (CAST(:keys AS TEXT) IS NULL OR k.dk = ANY (ARRAY(
        SELECT CAST(jsonb_array_elements_text(CAST(:keys AS jsonb)) AS BIGINT))))
      AND (CAST(:state AS TEXT) IS NULL OR k.state = :state)
      AND (CAST(:group_name AS TEXT) IS NULL OR EXISTS (
        SELECT 1 FROM group_member AS m WHERE m.dk = k.dk AND m.name = :group_name))
      AND (CAST(:tag AS TEXT) IS NULL OR EXISTS (SELECT 1 FROM device_tag AS t WHERE t.dk = k.dk AND t.tag = :tag))
      AND (CAST(:fault AS TEXT) IS NULL OR EXISTS (
        SELECT 1 FROM device_fault AS f WHERE f.dk = k.dk AND f.code = :fault AND f.since_ms IS NOT NULL))
      AND (CAST(:pattern AS TEXT) IS NULL OR EXISTS (
        SELECT 1 FROM device AS d WHERE d.dk = k.dk
        AND (lower(d.device_id COLLATE "C") LIKE :pattern ESCAPE '\' OR lower(d.label COLLATE "C") LIKE :pattern ESCAPE '\')))
      AND (CAST(:success_from_ms AS BIGINT) IS NULL OR EXISTS (
        SELECT 1 FROM device_state AS s WHERE s.dk = k.dk AND s.last_success_at_ms >= :success_from_ms))
      AND (CAST(:success_to_ms AS BIGINT) IS NULL OR EXISTS (
        SELECT 1 FROM device_state AS s WHERE s.dk = k.dk AND s.last_success_at_ms < :success_to_ms))
      AND (CAST(:never AS BIGINT) = 0 OR EXISTS (
        SELECT 1 FROM device_state AS s WHERE s.dk = k.dk AND s.last_success_at_ms IS NULL))
    ORDER BY k.since_ms DESC, k.dk DESC LIMIT :row_limit OFFSET :row_offset
) AS page
JOIN device_state AS s ON s.dk = page.dk JOIN device AS d ON d.dk = s.dk JOIN device_standing AS h ON h.dk = s.dk
LEFT JOIN device_vitals AS v ON v.dk = s.dk
ORDER BY h.since_ms DESC, h.dk DESC

-- name: fleet_counts
-- How many of them stand how.
SELECT k.state, count(*) AS devices FROM device_standing AS k
    WHERE (CAST(:groups AS TEXT) IS NULL OR EXISTS (
        SELECT 1 FROM group_member AS r WHERE r.dk = k.dk AND r.name IN (SELECT jsonb_array_elements_text(CAST(:groups AS jsonb)))))
      AND (CAST(:keys AS TEXT) IS NULL OR k.dk = ANY (ARRAY(
        SELECT CAST(jsonb_array_elements_text(CAST(:keys AS jsonb)) AS BIGINT))))
      AND (CAST(:state AS TEXT) IS NULL OR k.state = :state)
      AND (CAST(:group_name AS TEXT) IS NULL OR EXISTS (
        SELECT 1 FROM group_member AS m WHERE m.dk = k.dk AND m.name = :group_name))
      AND (CAST(:tag AS TEXT) IS NULL OR EXISTS (SELECT 1 FROM device_tag AS t WHERE t.dk = k.dk AND t.tag = :tag))
      AND (CAST(:fault AS TEXT) IS NULL OR EXISTS (
        SELECT 1 FROM device_fault AS f WHERE f.dk = k.dk AND f.code = :fault AND f.since_ms IS NOT NULL))
      AND (CAST(:pattern AS TEXT) IS NULL OR EXISTS (
        SELECT 1 FROM device AS d WHERE d.dk = k.dk
        AND (lower(d.device_id COLLATE "C") LIKE :pattern ESCAPE '\' OR lower(d.label COLLATE "C") LIKE :pattern ESCAPE '\')))
      AND (CAST(:success_from_ms AS BIGINT) IS NULL OR EXISTS (
        SELECT 1 FROM device_state AS s WHERE s.dk = k.dk AND s.last_success_at_ms >= :success_from_ms))
      AND (CAST(:success_to_ms AS BIGINT) IS NULL OR EXISTS (
        SELECT 1 FROM device_state AS s WHERE s.dk = k.dk AND s.last_success_at_ms < :success_to_ms))
      AND (CAST(:never AS BIGINT) = 0 OR EXISTS (
        SELECT 1 FROM device_state AS s WHERE s.dk = k.dk AND s.last_success_at_ms IS NULL))
GROUP BY k.state

-- name: fleet_found
-- Keys of devices by a part of their id or label.
-- PostgreSQL only: in the collation C, as SQLite does it; another makes it three times as slow.
SELECT dk FROM device
WHERE lower(device_id COLLATE "C") LIKE :pattern ESCAPE '\' OR lower(label COLLATE "C") LIKE :pattern ESCAPE '\'
LIMIT :row_limit

-- name: fleet_found_by_age
-- Keys of devices by the age of their last success.
SELECT dk FROM device_state
WHERE (CAST(:success_from_ms AS BIGINT) IS NULL OR last_success_at_ms >= :success_from_ms)
  AND (CAST(:success_to_ms AS BIGINT) IS NULL OR last_success_at_ms < :success_to_ms)
  AND (CAST(:never AS BIGINT) = 0 OR last_success_at_ms IS NULL)
LIMIT :row_limit

-- name: fleet_device
SELECT s.*, d.device_id, d.label, d.note, d.enrolled_at_ms, d.revoked_at_ms, h.state, h.under, h.since_ms,
       h.reason, h.detail, h.muted_until_ms, h.muted_by, h.mute_note, h.backlog, h.clear_at_ms, h.flapping,
       v.version, v.disk_free_percent, v.temperature_c, v.throttled,
       (SELECT m.name FROM group_member AS m WHERE m.dk = s.dk AND m.kind = 'site') AS site
FROM device_state AS s JOIN device AS d ON d.dk = s.dk JOIN device_standing AS h ON h.dk = s.dk
LEFT JOIN device_vitals AS v ON v.dk = s.dk
WHERE s.dk = :dk

-- name: fleet_states
SELECT h.state, count(*) AS devices FROM device_standing AS h JOIN device_state AS s ON s.dk = h.dk
WHERE (CAST(:groups AS TEXT) IS NULL OR EXISTS (
    SELECT 1 FROM group_member AS r WHERE r.dk = s.dk AND r.name IN (SELECT jsonb_array_elements_text(CAST(:groups AS jsonb)))))
GROUP BY h.state

-- name: fleet_freshness
-- Devices by the age of their last success; :edge_n are moments, the newest first. Retired ones are not counted.
SELECT count(CASE WHEN s.last_success_at_ms > :edge_0 THEN 1 END) AS b0,
       count(CASE WHEN s.last_success_at_ms > :edge_1 AND s.last_success_at_ms <= :edge_0 THEN 1 END) AS b1,
       count(CASE WHEN s.last_success_at_ms > :edge_2 AND s.last_success_at_ms <= :edge_1 THEN 1 END) AS b2,
       count(CASE WHEN s.last_success_at_ms > :edge_3 AND s.last_success_at_ms <= :edge_2 THEN 1 END) AS b3,
       count(CASE WHEN s.last_success_at_ms > :edge_4 AND s.last_success_at_ms <= :edge_3 THEN 1 END) AS b4,
       count(CASE WHEN s.last_success_at_ms > :edge_5 AND s.last_success_at_ms <= :edge_4 THEN 1 END) AS b5,
       count(CASE WHEN s.last_success_at_ms <= :edge_5 THEN 1 END) AS b6,
       count(CASE WHEN s.last_success_at_ms IS NULL THEN 1 END) AS never
FROM device_state AS s WHERE s.shut_out = 0 AND (CAST(:groups AS TEXT) IS NULL OR EXISTS (
    SELECT 1 FROM group_member AS r WHERE r.dk = s.dk AND r.name IN (SELECT jsonb_array_elements_text(CAST(:groups AS jsonb)))))

-- name: fleet_faults
-- Active faults over the fleet, the one that most devices have first.
SELECT f.code, count(CASE WHEN f.since_ms IS NOT NULL AND s.shut_out = 0 THEN 1 END) AS devices, min(f.since_ms) AS since_ms,
       min(f.first_seen_ms) AS first_seen_ms, max(f.last_seen_ms) AS last_seen_ms, sum(f.count) AS count
FROM device_fault AS f JOIN device_state AS s ON s.dk = f.dk
WHERE (CAST(:groups AS TEXT) IS NULL OR EXISTS (
    SELECT 1 FROM group_member AS r WHERE r.dk = s.dk AND r.name IN (SELECT jsonb_array_elements_text(CAST(:groups AS jsonb)))))
GROUP BY f.code ORDER BY 2 DESC, 5 DESC, f.code LIMIT :row_limit OFFSET :row_offset

-- name: fleet_faults_count
SELECT count(DISTINCT s.code) FROM device_fault AS s
WHERE (CAST(:groups AS TEXT) IS NULL OR EXISTS (
    SELECT 1 FROM group_member AS r WHERE r.dk = s.dk AND r.name IN (SELECT jsonb_array_elements_text(CAST(:groups AS jsonb)))))
