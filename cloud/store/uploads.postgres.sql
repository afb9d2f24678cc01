-- name: upload_refuse_entries
INSERT INTO upload_refusal (upload_id, position, path, code)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::text[]);

-- name: uploads_known
-- Which of these ids are uploads that still own bytes.
SELECT u.id AS id FROM unnest($1::text[]) AS asked (id) JOIN upload AS u ON u.id = asked.id
WHERE u.state = 'receiving';

-- name: blobs_known
-- Which of these blobs something still refers to.
SELECT asked.blob AS blob FROM unnest($1::text[]) AS asked (blob)
WHERE EXISTS (SELECT 1 FROM content WHERE content.blob = asked.blob)
   OR EXISTS (SELECT 1 FROM upload WHERE id = asked.blob AND state = 'receiving');
