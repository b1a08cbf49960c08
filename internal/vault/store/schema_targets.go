package store

// schemaTargets has the network mappings, and the machines' target settings,
// which go with their items.
const schemaTargets = `
CREATE TABLE mappings(id TEXT PRIMARY KEY, from_site TEXT NOT NULL REFERENCES sites(id), to_site TEXT NOT NULL REFERENCES sites(id), doc BLOB NOT NULL) STRICT;
CREATE TABLE item_settings(item TEXT PRIMARY KEY REFERENCES items(id) ON DELETE CASCADE, doc BLOB NOT NULL) STRICT;
`
