package store

// migrations returns the steps from each schema to the next; the number of
// applied steps is the database's user_version. A released step never changes.
func migrations() []string {
	return []string{`
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE sites(id TEXT PRIMARY KEY, doc BLOB NOT NULL) STRICT;
CREATE TABLE gateways(id TEXT PRIMARY KEY, site TEXT NOT NULL REFERENCES sites(id), doc BLOB NOT NULL) STRICT;
CREATE TABLE enrollments(role TEXT NOT NULL, name TEXT NOT NULL, hash BLOB NOT NULL, expires TEXT NOT NULL, holder BLOB, PRIMARY KEY(role, name)) STRICT;
CREATE TABLE machines(site TEXT NOT NULL REFERENCES sites(id), name TEXT NOT NULL, doc BLOB NOT NULL, PRIMARY KEY(site, name)) STRICT;
CREATE TABLE policies(id TEXT PRIMARY KEY, doc BLOB NOT NULL) STRICT;
CREATE TABLE groups(id TEXT PRIMARY KEY, policy TEXT NOT NULL REFERENCES policies(id), home TEXT NOT NULL REFERENCES sites(id), recovery TEXT NOT NULL REFERENCES sites(id), generation INTEGER NOT NULL, doc BLOB NOT NULL) STRICT;
CREATE TABLE items(id TEXT PRIMARY KEY, grp TEXT NOT NULL REFERENCES groups(id) ON DELETE CASCADE, machine TEXT NOT NULL) STRICT;
-- What outlives a group: a name that is used again must not fall behind the
-- generation that gateways remember for it.
CREATE TABLE generations(grp TEXT PRIMARY KEY, generation INTEGER NOT NULL) STRICT;
CREATE TABLE jobs(id TEXT PRIMARY KEY, grp TEXT NOT NULL, ended INTEGER NOT NULL, created TEXT NOT NULL, doc BLOB NOT NULL) STRICT;
CREATE INDEX jobs_by_group ON jobs(grp, created);
CREATE INDEX jobs_open ON jobs(created) WHERE ended = 0;
CREATE TABLE tasks(job TEXT NOT NULL REFERENCES jobs(id), seq INTEGER NOT NULL, name TEXT NOT NULL, doc BLOB NOT NULL, PRIMARY KEY(job, name)) STRICT;
CREATE TABLE events(seq INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, doc BLOB NOT NULL) STRICT;
CREATE TABLE tokens(id TEXT PRIMARY KEY, hash BLOB NOT NULL UNIQUE, doc BLOB NOT NULL) STRICT;
CREATE TABLE agents(machine TEXT PRIMARY KEY, doc BLOB NOT NULL) STRICT;
CREATE TABLE snapshots(grp TEXT PRIMARY KEY REFERENCES groups(id) ON DELETE CASCADE, doc BLOB NOT NULL) STRICT;
CREATE TABLE audit(seq INTEGER PRIMARY KEY AUTOINCREMENT, doc BLOB NOT NULL) STRICT;
`, schemaPlans, schemaHealth, schemaAccess, schemaCertificates, schemaTargets}
}
