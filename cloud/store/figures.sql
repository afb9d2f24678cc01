-- name: standing_of_devices
-- One pass over the current state, a row per device; the history is not touched.
SELECT
    count(*) AS devices,
    count(CASE WHEN last_seen_at_ms >= :active_ms THEN 1 END) AS active,
    count(alert_opened_at_ms) AS failing,
    coalesce(sum(last_queue_depth), 0) AS queue_items,
    coalesce(max(last_queue_depth), 0) AS queue_max,
    coalesce(max(CASE WHEN last_seen_at_ms >= :active_ms THEN last_queue_depth END), 0) AS queue_active_max,
    min(CASE WHEN last_queue_depth > 0 THEN last_seen_at_ms END) AS silent_since_ms,
    avg(CASE WHEN last_queue_depth > 0 THEN last_seen_at_ms END) AS silent_average_ms
FROM device_state WHERE shut_out = 0

-- name: standing_of_exports
SELECT
    count(CASE WHEN state <> 'published' THEN 1 END) AS planned,
    count(CASE WHEN attempts > 0 THEN 1 END) AS failing,
    coalesce(max(published_at_ms), 0) AS published_at_ms
FROM export_range
