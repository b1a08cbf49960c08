package store

// schemaAccess: who may do what, what was done, and what changed.
//
// The audit log can only grow: its triggers refuse every other statement, also
// a replacement by INSERT. Each row's hash covers the row before it.
const schemaAccess = `
CREATE TABLE users(name TEXT PRIMARY KEY, hash TEXT NOT NULL, doc BLOB NOT NULL) STRICT;
CREATE TABLE sessions(id TEXT PRIMARY KEY, hash BLOB NOT NULL UNIQUE, user TEXT NOT NULL REFERENCES users(name) ON DELETE CASCADE, doc BLOB NOT NULL) STRICT;
CREATE INDEX sessions_by_user ON sessions(user);
ALTER TABLE enrollments ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE audit ADD COLUMN hash BLOB;
CREATE TRIGGER audit_not_changed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log can only grow'); END;
CREATE TRIGGER audit_not_deleted BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log can only grow'); END;
CREATE TRIGGER audit_not_replaced BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE seq = NEW.seq) BEGIN SELECT RAISE(ABORT, 'the audit log can only grow'); END;
CREATE TABLE answers(caller TEXT NOT NULL, key TEXT NOT NULL, sum BLOB NOT NULL, created TEXT NOT NULL, job TEXT NOT NULL DEFAULT '', answer BLOB, PRIMARY KEY(caller, key)) STRICT;
CREATE INDEX answers_by_age ON answers(created);
CREATE TABLE changes(seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, id TEXT NOT NULL, gone INTEGER NOT NULL) STRICT;
`
