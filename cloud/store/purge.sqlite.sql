-- name: purge_begin
-- SQLite: what is deleted is overwritten, else it could be read in the file until its page is used again.
PRAGMA secure_delete = ON

-- name: purge_end
-- SQLite: the log still holds the pages as they were.
PRAGMA wal_checkpoint(TRUNCATE)
