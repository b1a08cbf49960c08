package store

// schemaCertificates: every certificate that was issued and has not ended, by
// the SHA-256 of its DER. revoked is the moment, or empty. Those that were
// issued before there was the table are taken over from their holders' rows.
const schemaCertificates = `
CREATE TABLE certificates(sum TEXT PRIMARY KEY, role TEXT NOT NULL, name TEXT NOT NULL, issued TEXT NOT NULL, ends TEXT NOT NULL, revoked TEXT NOT NULL) STRICT;
CREATE INDEX certificates_by_holder ON certificates(role, name);
CREATE INDEX certificates_revoked ON certificates(ends) WHERE revoked <> '';
INSERT INTO certificates(sum, role, name, issued, ends, revoked)
	SELECT json_extract(CAST(doc AS TEXT), '$.certificateSum'), 'gateway', id, '', '9999-12-31T00:00:00.000000000Z', '' FROM gateways
	WHERE coalesce(json_extract(CAST(doc AS TEXT), '$.certificateSum'), '') <> '';
INSERT OR IGNORE INTO certificates(sum, role, name, issued, ends, revoked)
	SELECT json_extract(CAST(doc AS TEXT), '$.certificateSum'), 'agent', machine, '', '9999-12-31T00:00:00.000000000Z', '' FROM agents
	WHERE coalesce(json_extract(CAST(doc AS TEXT), '$.certificateSum'), '') <> '';
`
