package store

// schemaHealth has the conditions (open is 1 for at most one occurrence of a key),
// the mutes that outlive occurrences, webhooks with their outbox, and when gateways
// were last seen.
const schemaHealth = `
CREATE TABLE conditions(id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, open INTEGER NOT NULL, since TEXT NOT NULL, cleared TEXT NOT NULL, doc BLOB NOT NULL) STRICT;
CREATE UNIQUE INDEX conditions_open ON conditions(key) WHERE open = 1;
CREATE INDEX conditions_cleared ON conditions(cleared) WHERE open = 0;
CREATE TABLE mutes(key TEXT PRIMARY KEY, until TEXT NOT NULL, doc BLOB NOT NULL) STRICT;
CREATE TABLE webhooks(id TEXT PRIMARY KEY, secret BLOB NOT NULL, doc BLOB NOT NULL) STRICT;
CREATE TABLE outbox(seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, hook TEXT NOT NULL REFERENCES webhooks(id) ON DELETE CASCADE, dead INTEGER NOT NULL, created TEXT NOT NULL, doc BLOB NOT NULL) STRICT;
CREATE INDEX outbox_by_hook ON outbox(hook, dead, seq);
CREATE TABLE seen(gateway TEXT PRIMARY KEY, at TEXT NOT NULL) STRICT;
`
