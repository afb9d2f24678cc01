-- name: subscriptions_lock
SELECT dk FROM device WHERE dk = :dk
