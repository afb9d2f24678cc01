-- name: upload_refuse_entries
INSERT INTO upload_refusal (upload_id, position, path, code) VALUES (?, ?, ?, ?);

-- name: uploads_known
-- Which of these ids are uploads that still own bytes.
SELECT u.id AS id FROM json_each(:rows) AS asked JOIN upload AS u ON u.id = asked.value ->> 0
WHERE u.state = 'receiving';

-- name: blobs_known
-- Which of these blobs something still refers to.
SELECT asked.value ->> 0 AS blob FROM json_each(:rows) AS asked
WHERE EXISTS (SELECT 1 FROM content WHERE blob = asked.value ->> 0)
   OR EXISTS (SELECT 1 FROM upload WHERE id = asked.value ->> 0 AND state = 'receiving');
