-- name: join_incident
INSERT INTO incident_member (incident_id, dk, joined_at_ms)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])
ON CONFLICT (incident_id, dk) DO UPDATE SET left_at_ms = NULL

-- name: leave_incident_some
UPDATE incident_member AS m SET left_at_ms = n.now_ms
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS n (now_ms, incident_id, dk)
WHERE m.incident_id = n.incident_id AND m.dk = n.dk

-- name: incidents_page
SELECT i.* FROM incident AS i
WHERE (CAST(:state AS TEXT) IS NULL OR i.state = :state) AND i.id < :before_id
  AND (CAST(:groups AS TEXT) IS NULL OR EXISTS (
    SELECT 1 FROM incident_member AS m JOIN group_member AS g ON g.dk = m.dk
    WHERE m.incident_id = i.id AND g.name IN (SELECT jsonb_array_elements_text(CAST(:groups AS jsonb)))))
ORDER BY i.id DESC LIMIT :row_limit OFFSET :row_offset

-- name: incidents_count
SELECT count(*) FROM incident AS i
WHERE (CAST(:state AS TEXT) IS NULL OR i.state = :state)
  AND (CAST(:groups AS TEXT) IS NULL OR EXISTS (
    SELECT 1 FROM incident_member AS m JOIN group_member AS g ON g.dk = m.dk
    WHERE m.incident_id = i.id AND g.name IN (SELECT jsonb_array_elements_text(CAST(:groups AS jsonb)))))

-- name: incident_in_reach
SELECT 1 FROM incident_member AS m JOIN group_member AS g ON g.dk = m.dk
WHERE m.incident_id = :id AND g.name IN (SELECT jsonb_array_elements_text(CAST(:groups AS jsonb))) LIMIT 1

-- name: incident_members
-- Of an incident that is about several groups, those within reach alone.
SELECT m.dk, d.device_id, m.joined_at_ms, m.left_at_ms FROM incident_member AS m JOIN device AS d ON d.dk = m.dk
WHERE m.incident_id = :id AND (CAST(:groups AS TEXT) IS NULL OR EXISTS (
    SELECT 1 FROM group_member AS g WHERE g.dk = m.dk AND g.name = ANY (SELECT jsonb_array_elements_text(CAST(:groups AS jsonb)))))
ORDER BY m.left_at_ms IS NOT NULL, d.device_id LIMIT :row_limit
