-- PostgreSQL: a row gets its ord when it is inserted and is seen when its transaction is committed, so ord 10 can be
-- seen while ord 9 is still to come. SHARE waits until every transaction that has inserted has ended, and keeps new
-- ones out for the moment in which the newest ord is read; what they insert later has a greater one.

-- name: export_settle_attempt_events
LOCK TABLE attempt_events IN SHARE MODE

-- name: export_settle_telemetry
LOCK TABLE telemetry IN SHARE MODE

-- name: export_patience
-- While SHARE waits for a long transaction, those that want to insert wait behind it: rather try again later.
SET LOCAL lock_timeout = '3s'

-- name: export_alone
-- PostgreSQL only: two services with directories of their own must not both publish one range.
SELECT pg_try_advisory_lock(7243002)
