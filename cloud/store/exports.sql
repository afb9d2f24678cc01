-- The export: its ranges, and the rows of each dataset in the order of the export.

-- name: export_ranges
SELECT * FROM export_range WHERE dataset = :dataset ORDER BY from_ord

-- name: export_unfinished
SELECT * FROM export_range WHERE dataset = :dataset AND state <> 'published' ORDER BY from_ord

-- name: export_planned_through
SELECT coalesce(max(to_ord), 0) FROM export_range WHERE dataset = :dataset

-- name: export_watermark
-- Ranges follow each other without a gap, so the first one that was never published says how far all before it reach.
SELECT coalesce(
    (SELECT min(from_ord) FROM export_range WHERE dataset = :dataset AND published_at_ms IS NULL),
    (SELECT max(to_ord) FROM export_range WHERE dataset = :dataset),
    0
)

-- name: export_plan
INSERT INTO export_range (dataset, from_ord, to_ord, state, rows_count, planned_at_ms)
VALUES (:dataset, :from_ord, :to_ord, 'planned', :rows_count, :now_ms)

-- name: export_plan_snapshot
INSERT INTO export_range (dataset, from_ord, to_ord, state, planned_at_ms)
VALUES (:dataset, 0, 0, 'planned', :now_ms)
ON CONFLICT (dataset, from_ord) DO UPDATE SET state = 'planned', planned_at_ms = excluded.planned_at_ms

-- name: export_take_up
UPDATE export_range SET state = 'planned', planned_at_ms = :now_ms
WHERE dataset = :dataset AND from_ord = :from_ord AND state = 'stale'

-- name: export_publish
-- A purge in between has made the range stale: what was written may hold the user's rows and does not count.
UPDATE export_range SET
    state = 'published', rows_count = :rows_count, files = :files, attempts = 0, error = NULL, published_at_ms = :now_ms
WHERE dataset = :dataset AND from_ord = :from_ord AND state = 'planned'

-- name: export_failed
UPDATE export_range SET attempts = attempts + 1, error = :error WHERE dataset = :dataset AND from_ord = :from_ord

-- name: export_totals
-- rows_owed: planned and not yet published; what is not even planned is counted by export_lag_*.
SELECT
    dataset,
    count(*) AS ranges,
    max(to_ord) AS planned_through,
    min(CASE WHEN published_at_ms IS NULL THEN from_ord END) AS first_owed,
    CAST(sum(CASE WHEN published_at_ms IS NULL THEN 0 ELSE rows_count END) AS BIGINT) AS rows_out,
    CAST(sum(CASE WHEN published_at_ms IS NULL THEN rows_count ELSE 0 END) AS BIGINT) AS rows_owed,
    CAST(sum(CASE WHEN state = 'stale' OR (state = 'planned' AND published_at_ms IS NOT NULL) THEN 1 ELSE 0 END)
        AS BIGINT) AS stale,
    CAST(sum(CASE WHEN attempts > 0 THEN 1 ELSE 0 END) AS BIGINT) AS failed
FROM export_range GROUP BY dataset

-- name: export_latest
SELECT * FROM export_range
WHERE dataset = :dataset AND published_at_ms IS NOT NULL ORDER BY published_at_ms DESC, from_ord DESC LIMIT 1

-- name: export_trouble
SELECT * FROM export_range WHERE dataset = :dataset AND attempts > 0 ORDER BY from_ord LIMIT 1

-- name: export_newest_attempt_events
SELECT coalesce(max(ord), 0) FROM attempt_events

-- name: export_newest_telemetry
SELECT coalesce(max(ord), 0) FROM telemetry

-- name: export_portion_attempt_events
SELECT count(*) AS rows_count, coalesce(max(ord), 0) AS to_ord
FROM (SELECT ord FROM attempt_events WHERE ord > :after AND ord <= :bound ORDER BY ord LIMIT :row_limit) AS portion

-- name: export_portion_telemetry
SELECT count(*) AS rows_count, coalesce(max(ord), 0) AS to_ord
FROM (SELECT ord FROM telemetry WHERE ord > :after AND ord <= :bound ORDER BY ord LIMIT :row_limit) AS portion

-- name: export_lag_attempt_events
SELECT count(*) FROM (SELECT 1 FROM attempt_events WHERE ord > :after LIMIT :row_limit) AS waiting

-- name: export_lag_telemetry
SELECT count(*) FROM (SELECT 1 FROM telemetry WHERE ord > :after LIMIT :row_limit) AS waiting

-- name: export_page_attempt_events
SELECT
    e.ord, e.id, e.event_version, e.event_type, e.event_ts, e.client_ts, e.seq, e.session_id, e.user_id, e.question_id,
    e.source, e.payload_json, d.device_id, e.stream, e.device_seq, e.boot_id, e.boottime_ms, e.wall_ms AS device_ts,
    e.clock_trusted, b.kind AS time_kind, b.low_ms, b.high_ms, e.ord AS after, '' AS after_id
FROM attempt_events AS e
LEFT JOIN device AS d ON d.dk = e.dk
LEFT JOIN boot AS b ON b.dk = e.dk AND b.boot_id = e.boot_id
WHERE e.ord > :after AND e.ord <= :to_ord ORDER BY e.ord LIMIT :row_limit

-- name: export_page_telemetry
SELECT
    e.ord, e.event_id, e.event_type, e.received_at_ms AS received_at, e.client_ts_ms AS client_ts,
    nullif(e.user_id, '') AS user_id, e.batch_id, e.event_data AS payload_json, d.device_id, e.stream, e.device_seq,
    e.boot_id, e.boottime_ms, e.wall_ms AS device_ts, e.clock_trusted, b.kind AS time_kind, b.low_ms, b.high_ms,
    e.ord AS after, '' AS after_id
FROM telemetry AS e
LEFT JOIN device AS d ON d.dk = e.dk
LEFT JOIN boot AS b ON b.dk = e.dk AND b.boot_id = e.boot_id
WHERE e.ord > :after AND e.ord <= :to_ord ORDER BY e.ord LIMIT :row_limit

-- name: export_page_boots
SELECT
    d.device_id, b.boot_id, b.number, b.last_boottime_ms, b.low_ms, b.high_ms, b.kind AS time_kind, b.contradicted,
    b.updated_at_ms AS updated_at, b.dk AS after, b.boot_id AS after_id
FROM boot AS b LEFT JOIN device AS d ON d.dk = b.dk
WHERE (b.dk, b.boot_id) > (:after, :after_id) ORDER BY b.dk, b.boot_id LIMIT :row_limit

-- name: export_page_sessions
SELECT
    s.session_id, s.user_id, d.device_id, s.mode, s.filters AS filters_json, s.question_ids AS question_ids_json,
    s.state, s.rev, s.created_at_ms AS created_at, s.expires_at_ms AS expires_at, s.ended_at_ms AS ended_at,
    s.updated_at_ms AS updated_at, 0 AS after, s.session_id AS after_id
FROM learner_session AS s LEFT JOIN device AS d ON d.dk = s.dk
WHERE s.session_id > :after_id ORDER BY s.session_id LIMIT :row_limit

-- name: export_forget
DELETE FROM export_range
