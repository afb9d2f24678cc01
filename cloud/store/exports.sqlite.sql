-- name: export_settle_attempt_events
-- SQLite has one writer: whoever sees ord 10 sees every smaller one that will ever be committed.
SELECT 1

-- name: export_settle_telemetry
SELECT 1

-- name: export_patience
SELECT 1

-- name: export_alone
-- SQLite: the lock file in the export's directory is enough, both are on one machine.
SELECT 1
