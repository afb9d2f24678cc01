-- name: boots_between
SELECT boot_id, number, last_boottime_ms, cloud_low_ms, cloud_high_ms, claim_low_ms, claim_high_ms FROM boot
WHERE dk = :dk AND number >= :first AND number <= :last ORDER BY number, boot_id
