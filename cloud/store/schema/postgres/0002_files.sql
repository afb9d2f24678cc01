-- Uploads, what they delivered, and the versions of each device's files.

CREATE TABLE upload (
    id              TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 32),
    dk              BIGINT  NOT NULL REFERENCES device (dk),
    kind            TEXT    NOT NULL CHECK (kind IN ('file', 'bundle')),
    role            TEXT    NOT NULL CHECK (role IN ('whole', 'part', 'final')),
    state           TEXT    NOT NULL CHECK (state IN ('receiving', 'published', 'partial', 'refused', 'ended')),
    length_bytes    BIGINT  CHECK (length_bytes >= 0),
    path            BYTEA    NOT NULL,
    sha256          TEXT    CHECK (length(sha256) = 64),
    mtime_ms        BIGINT,
    metadata        TEXT    NOT NULL,
    parts           TEXT    NOT NULL,
    created_at_ms   BIGINT  NOT NULL,
    expires_at_ms   BIGINT  NOT NULL,
    finished_at_ms  BIGINT,
    error_code      TEXT,
    published       BIGINT  NOT NULL DEFAULT 0,
    reused          BIGINT  NOT NULL DEFAULT 0,
    refused         BIGINT  NOT NULL DEFAULT 0,
    CHECK ((state = 'receiving') = (finished_at_ms IS NULL)),
    CHECK ((state = 'refused') = (error_code IS NOT NULL)),
    CHECK (state NOT IN ('published', 'partial') OR length_bytes IS NOT NULL)
);
-- The janitor asks what has expired; the start asks what is still being received.
CREATE INDEX upload_expiry ON upload (expires_at_ms);
CREATE INDEX upload_receiving ON upload (created_at_ms, id) WHERE state = 'receiving';
CREATE INDEX upload_device ON upload (dk, created_at_ms);

CREATE TABLE upload_refusal (
    upload_id       TEXT    NOT NULL REFERENCES upload (id) ON DELETE CASCADE,
    position        BIGINT  NOT NULL,
    path            BYTEA    NOT NULL,
    code            TEXT    NOT NULL,
    PRIMARY KEY (upload_id, position)
);

-- A content is a stretch of a blob: the whole of it for a single file, one of many in the pack of a bundle.
CREATE TABLE content (
    dk              BIGINT  NOT NULL REFERENCES device (dk),
    sha256          TEXT    NOT NULL CHECK (length(sha256) = 64),
    blob            TEXT    NOT NULL,
    offset_bytes    BIGINT  NOT NULL CHECK (offset_bytes >= 0),
    length_bytes    BIGINT  NOT NULL CHECK (length_bytes >= 0),
    created_at_ms   BIGINT  NOT NULL,
    PRIMARY KEY (dk, sha256)
);
-- The janitor asks whether anything still refers to a blob.
CREATE INDEX content_blob ON content (blob);

-- The current version of each file; file_version keeps all of them, the current one too.
CREATE TABLE file (
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dk              BIGINT  NOT NULL REFERENCES device (dk),
    path            BYTEA    NOT NULL CHECK (length(path) > 0),
    version         BIGINT  NOT NULL CHECK (version >= 1),
    sha256          TEXT    NOT NULL,
    length_bytes    BIGINT  NOT NULL,
    mtime_ms        BIGINT,
    upload_id       TEXT    NOT NULL,
    published_at_ms BIGINT  NOT NULL,
    UNIQUE (dk, path)
);
-- The dashboard shows what arrived last.
CREATE INDEX file_recent ON file (dk, published_at_ms);

CREATE TABLE file_version (
    file_id         BIGINT  NOT NULL REFERENCES file (id) ON DELETE CASCADE,
    version         BIGINT  NOT NULL,
    sha256          TEXT    NOT NULL,
    length_bytes    BIGINT  NOT NULL,
    mtime_ms        BIGINT,
    upload_id       TEXT    NOT NULL,
    published_at_ms BIGINT  NOT NULL,
    PRIMARY KEY (file_id, version)
);
