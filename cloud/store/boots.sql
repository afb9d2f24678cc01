-- name: boots_around
-- As far as the nearest boots on both sides that their own evidence dates.
SELECT boot_id, number, last_boottime_ms, cloud_low_ms, cloud_high_ms, claim_low_ms, claim_high_ms FROM boot
WHERE dk = :dk
  AND number >= coalesce((SELECT max(number) FROM boot WHERE dk = :dk AND number < :first AND kind = 'exact'), 0)
  AND number <= coalesce(
      (SELECT min(number) FROM boot WHERE dk = :dk AND number > :last AND kind = 'exact'), 9223372036854775807
  )
ORDER BY number, boot_id LIMIT :most
