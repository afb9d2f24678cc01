-- name: get_cursor$
SELECT value FROM cursors WHERE name = :name;

-- name: drop_cursor!
DELETE FROM cursors WHERE name = :name;

-- name: set_cursor!
INSERT INTO cursors (name, value) VALUES (:name, :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: add_loss<!
INSERT INTO ledger (what, reason, count, bytes, detail, wall_ms)
VALUES (:what, :reason, :count, :bytes, :detail, :wall_ms);

-- name: losses
SELECT id, what, reason, count, bytes, detail, wall_ms FROM ledger ORDER BY id DESC LIMIT :most;

-- name: count_lost$
SELECT coalesce(sum(count), 0) FROM ledger WHERE what = :what;

-- name: count_losses$
SELECT count(*) FROM ledger;

-- name: trim_losses!
-- The newest are kept for the technician; older ones have long been told to the cloud.
DELETE FROM ledger WHERE id <= (SELECT max(id) FROM ledger) - :keep;

-- name: add_cycle<!
INSERT INTO cycles (event_id, outcome, attempted, files_synced, errors, bytes_sent, speed_mbps, duration_ms,
    error_code, ended_wall_ms, clock_trusted)
VALUES (:event_id, :outcome, :attempted, :files_synced, :errors, :bytes_sent, :speed_mbps, :duration_ms,
    :error_code, :ended_wall_ms, :clock_trusted);

-- name: cycles
SELECT * FROM cycles WHERE id < :before ORDER BY id DESC LIMIT :most;

-- name: trim_cycles!
DELETE FROM cycles WHERE id <= (SELECT max(id) FROM cycles) - :keep;

-- name: get_breaker^
SELECT failures, due_at_ms FROM breakers WHERE destination = :destination;

-- name: set_breaker!
INSERT INTO breakers (destination, failures, due_at_ms) VALUES (:destination, :failures, :due_at_ms)
ON CONFLICT (destination) DO UPDATE SET failures = excluded.failures, due_at_ms = excluded.due_at_ms;

-- name: get_network^
SELECT chunk_bytes, goodput_bps FROM networks WHERE name = :name;

-- name: set_network!
INSERT INTO networks (name, chunk_bytes, goodput_bps, seen_wall_ms)
VALUES (:name, :chunk_bytes, :goodput_bps, :wall_ms)
ON CONFLICT (name) DO UPDATE SET chunk_bytes = excluded.chunk_bytes,
    goodput_bps = coalesce(excluded.goodput_bps, goodput_bps), seen_wall_ms = excluded.seen_wall_ms;

-- name: trim_networks!
DELETE FROM networks WHERE name NOT IN (SELECT name FROM networks ORDER BY seen_wall_ms DESC LIMIT 50);

-- name: add_boot!
INSERT INTO boots (boot_id, number) SELECT :boot_id, coalesce(max(number), 0) + 1 FROM boots WHERE true
ON CONFLICT (boot_id) DO NOTHING;

-- name: trim_boots!
-- A boot is needed as long as something of it waits to be sent.
DELETE FROM boots WHERE number <= (SELECT max(number) FROM boots) - :keep
AND boot_id NOT IN (SELECT boot_id FROM messages);

-- name: boots
SELECT boot_id, number FROM boots;

-- name: forget_boots!
DELETE FROM boots;

-- name: set_boot!
INSERT INTO boots (boot_id, number) VALUES (:boot_id, :number);

-- name: forget_streams!
-- New messages go into streams of the outbox's present name.
DELETE FROM cursors WHERE name GLOB 'stream.*';
