package store

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
)

// schemaOf lists what a database is made of.
func schemaOf(t *testing.T, db *sql.DB) []string {
	t.Helper()
	rows, err := db.Query("SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY 1")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestEveryPastSchemaUpgrades opens a database of each schema there ever was,
// with a gateway and an agent in it, and demands the same schema of all, and
// that those two can go on with the certificates they have.
func TestEveryPastSchemaUpgrades(t *testing.T) {
	ctx := context.Background()
	fresh, err := Open(ctx, filepath.Join(t.TempDir(), "fresh.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	want := schemaOf(t, fresh.db)
	for v := 1; v <= len(migrations()); v++ {
		t.Run(fmt.Sprintf("schema %d", v), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "old.db")
			makeOld(t, path, v)
			s, err := Open(ctx, path)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if got := schemaOf(t, s.db); !slices.Equal(got, want) {
				t.Errorf("upgraded:\n%v\nfresh:\n%v", got, want)
			}
			err = s.View(ctx, func(tx *Tx) error {
				g, err := tx.Gateway("gw")
				if err != nil {
					return err
				}
				if g.CertificateSum != "cafe" {
					t.Errorf("gateway %+v", g)
				}
				if v >= withCertificates() {
					return nil // its programs wrote the rows themselves
				}
				for _, sum := range []string{"cafe", "beef"} {
					if c, err := tx.Certificate(sum); err != nil || c.Revoked {
						t.Errorf("certificate %s: %+v, %v", sum, c, err)
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// withCertificates is the schema that has the table of certificates.
func withCertificates() int { return slices.Index(migrations(), schemaCertificates) + 1 }

// makeOld makes a database as a program with schema v left it.
func makeOld(t *testing.T, path string, v int) {
	t.Helper()
	db, err := OpenSQLite(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	steps := append(slices.Clone(migrations()[:v]), fmt.Sprintf("PRAGMA user_version = %d", v),
		`INSERT INTO sites(id, doc) VALUES('home', CAST('{"id":"home"}' AS BLOB))`,
		`INSERT INTO gateways(id, site, doc) VALUES('gw', 'home', CAST('{"id":"gw","site":"home","state":"enrolled","certificateSum":"cafe"}' AS BLOB))`,
		`INSERT INTO agents(machine, doc) VALUES('web', CAST('{"machine":"web","certificateSum":"beef"}' AS BLOB))`)
	for _, s := range steps {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%.60s: %v", s, err)
		}
	}
}
