-- name: join_incident
INSERT INTO incident_member (incident_id, dk, joined_at_ms) VALUES (?, ?, ?)
ON CONFLICT (incident_id, dk) DO UPDATE SET left_at_ms = NULL

-- name: leave_incident_some
UPDATE incident_member SET left_at_ms = ? WHERE incident_id = ? AND dk = ?

-- name: incidents_page
SELECT i.* FROM incident AS i
WHERE (CAST(:state AS TEXT) IS NULL OR i.state = :state) AND i.id < :before_id
  AND (:groups IS NULL OR EXISTS (
    SELECT 1 FROM incident_member AS m JOIN group_member AS g ON g.dk = m.dk
    WHERE m.incident_id = i.id AND g.name IN (SELECT value FROM json_each(:groups))))
ORDER BY i.id DESC LIMIT :row_limit OFFSET :row_offset

-- name: incidents_count
SELECT count(*) FROM incident AS i
WHERE (CAST(:state AS TEXT) IS NULL OR i.state = :state)
  AND (:groups IS NULL OR EXISTS (
    SELECT 1 FROM incident_member AS m JOIN group_member AS g ON g.dk = m.dk
    WHERE m.incident_id = i.id AND g.name IN (SELECT value FROM json_each(:groups))))

-- name: incident_in_reach
SELECT 1 FROM incident_member AS m JOIN group_member AS g ON g.dk = m.dk
WHERE m.incident_id = :id AND g.name IN (SELECT value FROM json_each(:groups)) LIMIT 1

-- name: incident_members
-- Of an incident that is about several groups, those within reach alone.
SELECT m.dk, d.device_id, m.joined_at_ms, m.left_at_ms FROM incident_member AS m JOIN device AS d ON d.dk = m.dk
WHERE m.incident_id = :id AND (:groups IS NULL OR EXISTS (
    SELECT 1 FROM group_member AS g WHERE g.dk = m.dk AND g.name IN (SELECT value FROM json_each(:groups))))
ORDER BY m.left_at_ms IS NOT NULL, d.device_id LIMIT :row_limit
