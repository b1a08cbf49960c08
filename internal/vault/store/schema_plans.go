package store

// schemaPlans adds recovery plans. Runs outlive their plan: they are its
// history and its evidence.
const schemaPlans = `
CREATE TABLE plans(id TEXT PRIMARY KEY, doc BLOB NOT NULL) STRICT;
CREATE TABLE plan_runs(plan TEXT NOT NULL, run INTEGER NOT NULL, job TEXT NOT NULL UNIQUE, doc BLOB NOT NULL, PRIMARY KEY(plan, run)) STRICT;
`
