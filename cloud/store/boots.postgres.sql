-- name: known_boots
SELECT b.dk, b.boot_id, b.number, b.last_boottime_ms, b.cloud_low_ms, b.cloud_high_ms, b.claim_low_ms,
       b.claim_high_ms, b.kind, b.low_ms, b.high_ms
FROM unnest($1::bigint[], $2::text[]) AS k (dk, boot_id)
JOIN boot AS b ON b.dk = k.dk AND b.boot_id = k.boot_id

-- name: save_boots
INSERT INTO boot (
    dk, boot_id, number, last_boottime_ms, cloud_low_ms, cloud_high_ms, claim_low_ms, claim_high_ms, updated_at_ms
)
SELECT * FROM unnest(
    $1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
    $9::bigint[]
)
ON CONFLICT (dk, boot_id) DO UPDATE SET
    number = excluded.number, last_boottime_ms = excluded.last_boottime_ms, cloud_low_ms = excluded.cloud_low_ms,
    cloud_high_ms = excluded.cloud_high_ms, claim_low_ms = excluded.claim_low_ms,
    claim_high_ms = excluded.claim_high_ms, updated_at_ms = excluded.updated_at_ms

-- name: save_spans
UPDATE boot AS b SET
    low_ms = v.low_ms, high_ms = v.high_ms, kind = v.kind, contradicted = v.contradicted, updated_at_ms = v.now_ms
FROM unnest(
    $1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[]
) AS v (low_ms, high_ms, kind, contradicted, now_ms, dk, boot_id)
WHERE b.dk = v.dk AND b.boot_id = v.boot_id
