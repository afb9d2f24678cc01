-- The boots of this device in their order, so that the cloud can date what was recorded under a wrong clock.
CREATE TABLE boots (
    boot_id TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE CHECK (number > 0)
) STRICT, WITHOUT ROWID;
