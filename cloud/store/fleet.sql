-- name: hours
-- Sync events per hour of receipt.
SELECT hour_ms, sum(success) AS success, sum(partial) AS partial, sum(failed) AS failed, sum(files) AS files,
       sum(bytes) AS bytes
FROM sync_hour WHERE hour_ms >= :from_ms GROUP BY hour_ms ORDER BY hour_ms

-- name: faults_of_device
SELECT code, first_seen_ms, last_seen_ms, count, since_ms FROM device_fault WHERE dk = :dk
ORDER BY since_ms IS NULL, last_seen_ms DESC

-- name: incidents_open
SELECT count(*) FROM incident WHERE state <> 'closed'

-- name: groups_and_members
SELECT g.name, g.kind, g.parent, g.calendar, g.learners, g.note, g.updated_at_ms,
       (SELECT count(*) FROM group_member AS m WHERE m.name = g.name) AS devices
FROM device_group AS g ORDER BY g.kind, g.name

-- name: tags_and_members
SELECT tag, count(*) AS devices FROM device_tag GROUP BY tag ORDER BY tag
