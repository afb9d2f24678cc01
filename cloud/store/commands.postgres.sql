-- name: add_commands
INSERT INTO device_command (id, dk, kind, state, created_by, created_at_ms)
SELECT n.id, n.dk, n.kind, 'pending', n.created_by, n.created_at_ms
FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::bigint[]) AS n (id, dk, kind, created_by, created_at_ms)

-- name: end_commands
UPDATE device_command AS c SET state = n.state, detail = n.detail, ended_at_ms = n.now_ms
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[]) AS n (state, detail, now_ms, id, dk)
WHERE c.id = n.id AND c.dk = n.dk AND c.state IN ('pending', 'sent')

-- name: save_vitals
INSERT INTO device_vitals (
    dk, body, at_ms, received_at_ms, version, disk_free_percent, temperature_c, throttled, clock_trusted
)
SELECT * FROM unnest(
    $1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::float8[], $7::float8[], $8::bigint[], $9::bigint[]
)
ON CONFLICT (dk) DO UPDATE SET
    body = excluded.body, at_ms = excluded.at_ms, received_at_ms = excluded.received_at_ms, version = excluded.version,
    disk_free_percent = excluded.disk_free_percent, temperature_c = excluded.temperature_c,
    throttled = excluded.throttled, clock_trusted = excluded.clock_trusted
