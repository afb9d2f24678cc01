-- name: subscriptions_lock
-- PostgreSQL only: FOR UPDATE, so that of two who change one device's subscriptions each sees what the other did.
SELECT dk FROM device WHERE dk = :dk FOR UPDATE
