-- The feed of changes: what a device gets of the records, in the order of their last change.

-- name: feed_identity_add
-- Made once for this database, so that a cursor of another one is known as such.
INSERT INTO generation (name, value) VALUES ('records-identity', :value) ON CONFLICT (name) DO NOTHING

-- name: feed_identity
SELECT value FROM generation WHERE name = 'records-identity'

-- name: feed_identity_change
UPDATE generation SET value = :value WHERE name = 'records-identity'

-- name: feed_marks
-- In one statement, so that what was forgotten is not newer than the head.
SELECT
    coalesce((SELECT value FROM generation WHERE name = 'records'), 0) AS head,
    coalesce((SELECT value FROM generation WHERE name = 'records-forgotten'), 0) AS forgotten,
    coalesce((SELECT value FROM generation WHERE name = 'subscriptions'), 0) AS subscriptions,
    coalesce((SELECT value FROM generation WHERE name = 'records-identity'), 0) AS identity

-- name: feed_recent
-- Near the head: through the few records that changed since, whoever they concern. Page first, states last: a row of
-- up to 192 KiB is read only when it is sent.
SELECT r.type, r.id, r.change, r.state, r.echo, p.gone, p.found
FROM (
    SELECT q.change, q.gone, count(*) OVER () AS found,
           sum(q.size) OVER (ORDER BY q.change) - q.size AS bytes_before
    FROM (
        SELECT f.change, f.size, CASE WHEN f.purged = 1 THEN 1 ELSE f.gone END AS gone
        FROM (
            SELECT c.change, c.purged, length(c.state) AS size, (
                SELECT min(s.gone) FROM record_scope AS s
                WHERE s.type = c.type AND s.id = c.id AND (
                    (s.kind = 'device' AND s.value = :device_id)
                    OR EXISTS (
                        SELECT 1 FROM subscription AS u
                        WHERE u.dk = :dk AND u.kind = s.kind AND u.value = s.value
                    )
                )
            ) AS gone
            FROM record AS c
            WHERE c.change > :since AND c.change <= :head
              AND (CAST(:types AS TEXT) IS NULL OR replace(:types, ',' || c.type || ',', '') <> :types)
        ) AS f
        WHERE f.gone IS NOT NULL AND (f.change > :began OR (f.gone = 0 AND f.purged = 0))
        ORDER BY f.change LIMIT :row_limit
    ) AS q
) AS p
CROSS JOIN record AS r
WHERE r.change = p.change AND p.bytes_before < CAST(:bytes_max AS BIGINT)
ORDER BY r.change

-- name: feed_whole
-- Far from the head: through all that concerns the device, however many other records there are.
SELECT r.type, r.id, r.change, r.state, r.echo, p.gone, p.found
FROM (
    SELECT q.change, q.gone, count(*) OVER () AS found,
           sum(q.size) OVER (ORDER BY q.change) - q.size AS bytes_before
    FROM (
        SELECT c.change, length(c.state) AS size, CASE WHEN c.purged = 1 THEN 1 ELSE mine.gone END AS gone
        FROM (
            SELECT s.type, s.id, min(s.gone) AS gone
            FROM (
                SELECT kind, value FROM subscription WHERE dk = :dk
                UNION ALL
                SELECT 'device', CAST(:device_id AS TEXT)
            ) AS u
            CROSS JOIN record_scope AS s
            WHERE s.kind = u.kind AND s.value = u.value
            GROUP BY s.type, s.id
        ) AS mine
        CROSS JOIN record AS c
        WHERE c.type = mine.type AND c.id = mine.id AND c.change > :since AND c.change <= :head
          AND (CAST(:types AS TEXT) IS NULL OR replace(:types, ',' || c.type || ',', '') <> :types)
          AND (c.change > :began OR (mine.gone = 0 AND c.purged = 0))
        ORDER BY c.change LIMIT :row_limit
    ) AS q
) AS p
CROSS JOIN record AS r
WHERE r.change = p.change AND p.bytes_before < CAST(:bytes_max AS BIGINT)
ORDER BY r.change

-- name: feed_touched
-- Whom the changes of this part of the feed concern.
SELECT DISTINCT s.kind, s.value
FROM record AS r CROSS JOIN record_scope AS s
WHERE r.change > :since AND r.change <= :head AND s.type = r.type AND s.id = r.id

-- name: subscriptions_of
SELECT kind, value FROM subscription WHERE dk = :dk

-- name: subscription_add
INSERT INTO subscription (dk, kind, value, created_at_ms) VALUES (:dk, :kind, :value, :now_ms)
ON CONFLICT (dk, kind, value) DO NOTHING

-- name: subscription_drop
DELETE FROM subscription WHERE dk = :dk AND kind = :kind AND value = :value

-- name: subscriptions_changed
-- Rises with every change of any subscription, so that every process lets its waiting devices ask again.
INSERT INTO generation (name, value) VALUES ('subscriptions', 1)
ON CONFLICT (name) DO UPDATE SET value = generation.value + 1
