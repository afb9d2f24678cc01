-- name: alert_rules
SELECT * FROM alert_rule ORDER BY name

-- name: put_alert_rule
INSERT INTO alert_rule (
    name, enabled, states, groups, tags, faults, channels, wait_s, escalate_after_s, escalate_to, created_at_ms,
    updated_at_ms
) VALUES (
    :name, :enabled, :states, :groups, :tags, :faults, :channels, :wait_s, :escalate_after_s, :escalate_to, :now_ms,
    :now_ms
)
ON CONFLICT (name) DO UPDATE SET enabled = excluded.enabled, states = excluded.states, groups = excluded.groups,
    tags = excluded.tags, faults = excluded.faults, channels = excluded.channels, wait_s = excluded.wait_s,
    escalate_after_s = excluded.escalate_after_s, escalate_to = excluded.escalate_to,
    updated_at_ms = excluded.updated_at_ms

-- name: alert_rule_by_name
SELECT * FROM alert_rule WHERE name = :name

-- name: drop_alert_rule
DELETE FROM alert_rule WHERE name = :name

-- name: lock_alerting
-- One service at a time plans.
UPDATE generation SET value = value + 1 WHERE name = 'transitions'

-- name: last_transition
SELECT coalesce(max(id), 0) FROM device_transition

-- name: troubles
SELECT h.dk, d.device_id, h.state, h.since_ms, s.last_error_code, s.alert_opened_at_ms
FROM device_standing AS h JOIN device AS d ON d.dk = h.dk JOIN device_state AS s ON s.dk = h.dk
WHERE h.state = :state

-- name: trouble_groups
SELECT m.dk, m.name, m.kind FROM group_member AS m JOIN device_standing AS h ON h.dk = m.dk WHERE h.state = :state

-- name: trouble_tags
SELECT t.dk, t.tag FROM device_tag AS t JOIN device_standing AS h ON h.dk = t.dk WHERE h.state = :state

-- name: place_sizes
SELECT m.name, count(*) AS devices FROM group_member AS m JOIN device_standing AS h ON h.dk = m.dk
WHERE m.kind <> 'group' AND h.state <> 'retired' GROUP BY m.name

-- name: open_incidents
SELECT * FROM incident WHERE state <> 'closed' ORDER BY id

-- name: open_members
SELECT m.incident_id, m.dk, h.state FROM incident_member AS m JOIN incident AS i ON i.id = m.incident_id
LEFT JOIN device_standing AS h ON h.dk = m.dk
WHERE i.state <> 'closed' AND m.left_at_ms IS NULL

-- name: add_incident
INSERT INTO incident (rule, kind, subject, cause, fault, state, opened_at_ms, escalate_at_ms, devices, updated_at_ms)
VALUES (:rule, :kind, :subject, :cause, :fault, 'open', :now_ms, :escalate_at_ms, :devices, :now_ms) RETURNING id

-- name: close_incident
UPDATE incident SET state = 'closed', closed_at_ms = :now_ms, escalate_at_ms = NULL, updated_at_ms = :now_ms
WHERE id = :id

-- name: grow_incident
UPDATE incident SET devices = devices + :joined, updated_at_ms = :now_ms WHERE id = :id

-- name: incident_escalated
UPDATE incident SET escalate_at_ms = NULL, updated_at_ms = :now_ms WHERE id = :id

-- name: acknowledge_incident
UPDATE incident SET state = 'acknowledged', acknowledged_at_ms = :now_ms, acknowledged_by = :acknowledged_by,
    note = :note, escalate_at_ms = NULL, updated_at_ms = :now_ms
WHERE id = :id AND state = 'open'

-- name: incident_by_id
SELECT * FROM incident WHERE id = :id

-- name: incidents_of_device
SELECT i.* FROM incident_member AS m JOIN incident AS i ON i.id = m.incident_id
WHERE m.dk = :dk AND m.left_at_ms IS NULL AND i.state <> 'closed' ORDER BY i.id DESC

-- name: acknowledged_devices
SELECT DISTINCT m.dk FROM incident_member AS m JOIN incident AS i ON i.id = m.incident_id
WHERE i.state = 'acknowledged' AND m.left_at_ms IS NULL

-- name: leave_incident
UPDATE incident_member SET left_at_ms = :now_ms WHERE incident_id = :id AND left_at_ms IS NULL

-- name: drop_incidents
DELETE FROM incident WHERE closed_at_ms < :before_ms

-- name: channels
SELECT * FROM channel ORDER BY name

-- name: channel_by_name
SELECT * FROM channel WHERE name = :name

-- name: put_channel
INSERT INTO channel (name, url, quiet_hours, digest_at, timezone, enabled, created_at_ms, updated_at_ms)
VALUES (:name, :url, :quiet_hours, :digest_at, :timezone, :enabled, :now_ms, :now_ms)
ON CONFLICT (name) DO UPDATE SET url = excluded.url, quiet_hours = excluded.quiet_hours,
    digest_at = excluded.digest_at, timezone = excluded.timezone, enabled = excluded.enabled,
    updated_at_ms = excluded.updated_at_ms

-- name: drop_channel
DELETE FROM channel WHERE name = :name

-- name: silences
SELECT * FROM silence WHERE until_ms > :now_ms ORDER BY until_ms, id

-- name: add_silence
INSERT INTO silence (id, device_id, group_name, tag, fault, from_ms, until_ms, comment, created_by, created_at_ms)
VALUES (:id, :device_id, :group_name, :tag, :fault, :from_ms, :until_ms, :comment, :created_by, :now_ms)

-- name: silence_by_id
SELECT * FROM silence WHERE id = :id

-- name: drop_silence
DELETE FROM silence WHERE id = :id

-- name: drop_silences
DELETE FROM silence WHERE until_ms < :before_ms

-- name: add_notice
-- Once per incident, channel and kind.
INSERT INTO notice (incident_id, channel, kind, state, due_at_ms, created_at_ms)
VALUES (:incident_id, :channel, :kind, 'pending', :due_at_ms, :now_ms) ON CONFLICT DO NOTHING

-- name: opened_notices
SELECT id, channel, state FROM notice WHERE incident_id = :id AND kind IN ('opened', 'escalated')

-- name: drop_notice
UPDATE notice SET state = 'dropped', ended_at_ms = :now_ms, lease_until_ms = NULL
WHERE id = :id AND state IN ('pending', 'processing')

-- name: due_channels
SELECT DISTINCT channel FROM notice
WHERE (state = 'pending' AND due_at_ms <= :now_ms) OR (state = 'processing' AND lease_until_ms <= :now_ms)

-- name: claim_notices
-- Who claims them first sends them; who dies meanwhile gives them back when the lease is over.
UPDATE notice SET state = 'processing', lease_until_ms = :lease_until_ms, attempts = attempts + 1
WHERE channel = :channel AND ((state = 'pending' AND due_at_ms <= :now_ms)
    OR (state = 'processing' AND lease_until_ms <= :now_ms))
RETURNING id, incident_id, kind, attempts

-- name: notice_sent
UPDATE notice SET state = 'sent', ended_at_ms = :now_ms, lease_until_ms = NULL, error = ''
WHERE id = :id AND state = 'processing'

-- name: notice_failed
UPDATE notice SET state = 'failed', ended_at_ms = :now_ms, lease_until_ms = NULL, error = :error
WHERE id = :id AND state = 'processing'

-- name: notice_later
UPDATE notice SET state = 'pending', due_at_ms = :due_at_ms, lease_until_ms = NULL, error = :error,
    attempts = attempts - :forgiven
WHERE id = :id AND state = 'processing'

-- name: notices_page
SELECT n.id, n.incident_id, n.channel, n.kind, n.state, n.due_at_ms, n.attempts, n.error, n.created_at_ms, n.ended_at_ms,
       i.subject, i.cause
FROM notice AS n LEFT JOIN incident AS i ON i.id = n.incident_id
WHERE (CAST(:channel AS TEXT) IS NULL OR n.channel = :channel) AND n.id < :before_id
ORDER BY n.id DESC LIMIT :row_limit

-- name: notices_count
SELECT count(*) FROM notice WHERE (CAST(:channel AS TEXT) IS NULL OR channel = :channel)

-- name: drop_notices
DELETE FROM notice WHERE ended_at_ms < :before_ms

-- name: notices_failed
SELECT count(*) FROM notice WHERE state = 'failed' AND ended_at_ms >= :since_ms

-- name: left_of_incident
-- Who did not recover with the others: has an incident of its own of the same rule, from that moment on.
SELECT o.subject FROM incident AS c
JOIN incident_member AS m ON m.incident_id = c.id
JOIN incident_member AS n ON n.dk = m.dk AND n.left_at_ms IS NULL
JOIN incident AS o ON o.id = n.incident_id AND o.rule = c.rule AND o.kind = 'device' AND o.state <> 'closed'
    AND o.opened_at_ms >= c.closed_at_ms
WHERE c.id = :id ORDER BY o.subject
