-- name: known_boots
SELECT b.dk, b.boot_id, b.number, b.last_boottime_ms, b.cloud_low_ms, b.cloud_high_ms, b.claim_low_ms,
       b.claim_high_ms, b.kind, b.low_ms, b.high_ms
FROM json_each(:rows) AS k CROSS JOIN boot AS b ON b.dk = k.value ->> 0 AND b.boot_id = k.value ->> 1

-- name: save_boots
INSERT INTO boot (
    dk, boot_id, number, last_boottime_ms, cloud_low_ms, cloud_high_ms, claim_low_ms, claim_high_ms, updated_at_ms
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (dk, boot_id) DO UPDATE SET
    number = excluded.number, last_boottime_ms = excluded.last_boottime_ms, cloud_low_ms = excluded.cloud_low_ms,
    cloud_high_ms = excluded.cloud_high_ms, claim_low_ms = excluded.claim_low_ms,
    claim_high_ms = excluded.claim_high_ms, updated_at_ms = excluded.updated_at_ms

-- name: save_spans
UPDATE boot SET low_ms = ?, high_ms = ?, kind = ?, contradicted = ?, updated_at_ms = ? WHERE dk = ? AND boot_id = ?
