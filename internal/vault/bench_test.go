package vault_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/lifecycle"
	"rebound/internal/orchestrator"
	"rebound/internal/site"
	"rebound/internal/vault"
	"rebound/internal/vault/store"
)

// fill writes n protected machines into a new vault's database.
func fill(b *testing.B, path string, n int) {
	b.Helper()
	st, err := store.Open(b.Context(), path)
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	err = st.Update(b.Context(), func(tx *store.Tx) error {
		err := errors.Join(tx.InsertSite(store.Site{ID: "home"}), tx.InsertSite(store.Site{ID: "cloud"}), tx.InsertPolicy(orchestrator.DefaultPolicy()), tx.SetMeta("vault-id", "bench"))
		for i := range n {
			name := fmt.Sprintf("vm-%04d", i)
			m := store.Machine{Machine: site.Machine{Definition: dr.Definition{Name: dr.MachineName(name)}, State: site.Running}, Gateway: "gw-home"}
			for _, at := range []dr.SiteID{"home", "cloud"} {
				m.Site = at
				err = errors.Join(err, tx.PutMachine(m))
			}
			err = errors.Join(err, tx.InsertGroup(&store.Group{
				ID: dr.GroupID(name), Policy: "default", Home: "home", Recovery: "cloud", Active: "home", Direction: dr.Forward,
				State: lifecycle.Protected, HomeGateway: "gw-home", RecoveryGateway: "gw-cloud",
				Members: []store.Member{{Item: dr.ItemID(name), Machine: dr.MachineName(name)}},
			}))
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
}

// processorTime is what this process has used so far.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkThousandItems reads lists of a vault with 1,000 items over HTTPS. Beside
// the time it reports the processor's, of vault and client together, which holds
// on a busy machine too.
func BenchmarkThousandItems(b *testing.B) {
	dir := b.TempDir()
	fill(b, filepath.Join(dir, "vault.db"), 1000)
	ctx, cancel := context.WithCancel(context.Background())
	addr, done := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		done <- vault.Serve(ctx, vault.Config{Dir: dir, Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), Version: "test", Ready: func(a net.Addr) { addr <- a }})
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	}()
	var base string
	select {
	case a := <-addr:
		base = "https://" + a.String()
	case err := <-done:
		b.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, vault.CAFile))
	if err != nil {
		b.Fatal(err)
	}
	token, err := os.ReadFile(filepath.Join(dir, vault.TokenFile))
	if err != nil {
		b.Fatal(err)
	}
	cfg, err := identity.PinnedTLS(ca)
	if err != nil {
		b.Fatal(err)
	}
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}
	defer hc.CloseIdleConnections()
	for _, path := range []string{"/items?limit=1000", "/items?limit=50&sort=-rpo", "/groups?limit=1000", "/machines?limit=2000", "/status"} {
		b.Run(strings.NewReplacer("/", "", "?", "_").Replace(path), func(b *testing.B) {
			began := processorTime(b)
			for b.Loop() {
				req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, base+"/api/v1"+path, http.NoBody)
				if err != nil {
					b.Fatal(err)
				}
				req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
				resp, err := hc.Do(req)
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK {
					b.Fatal(resp.Status, err)
				}
				b.SetBytes(n)
			}
			b.ReportMetric(float64((processorTime(b)-began).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}
