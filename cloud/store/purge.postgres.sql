-- name: purge_begin
-- PostgreSQL: an export must neither plan nor publish a range while this is not committed: it would still see the rows.
LOCK TABLE export_range IN SHARE ROW EXCLUSIVE MODE

-- name: purge_end
-- PostgreSQL: VACUUM, which autovacuum does, ends what is left of deleted rows.
SELECT 1
