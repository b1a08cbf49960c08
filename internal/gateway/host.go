package gateway

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rebound/internal/control"
)

// hostEvery is how often the host is looked at for the reports.
const hostEvery = 2 * time.Second

// hostWatch keeps the last look at the host.
type hostWatch struct {
	mu    sync.Mutex
	asked time.Time
	last  control.HostReport
}

// hostReport is how the gateway's host fares, at most hostEvery old.
func (g *Gateway) hostReport(ctx context.Context) control.HostReport {
	g.host.mu.Lock()
	defer g.host.mu.Unlock()
	if time.Since(g.host.asked) < hostEvery {
		return g.host.last
	}
	g.host.asked = time.Now()
	r := control.HostReport{Version: g.cfg.Version, CPUs: runtime.NumCPU(), Load1: load()}
	r.MemoryTotal, r.MemoryAvailable = memory()
	r.Volumes = g.fileSystems(ctx)
	g.host.last = r
	return r
}

// fileSystems returns a row for each file system that the gateway writes to.
func (g *Gateway) fileSystems(ctx context.Context) []control.Volume {
	var out []control.Volume
	byID := map[unix.Fsid]int{}
	uses := []struct{ what, path string }{
		{"state", g.cfg.Dir}, {"journal", filepath.Join(g.cfg.Dir, "journals")}, {"spool", g.cfg.SpoolDir},
	}
	for _, v := range g.cfg.RetentionVolumes {
		uses = append(uses, struct{ what, path string }{"journal", v.Dir})
	}
	for _, use := range uses {
		var st unix.Statfs_t
		if err := unix.Statfs(use.path, &st); err != nil {
			continue // not made yet
		}
		if i, ok := byID[st.Fsid]; ok {
			if !slices.Contains(out[i].Uses, use.what) {
				out[i].Uses = append(out[i].Uses, use.what)
			}
			continue
		}
		byID[st.Fsid] = len(out)
		out = append(out, control.Volume{
			Path: use.path, Uses: []string{use.what},
			FreeBytes: int64(st.Bavail) * st.Bsize, TotalBytes: int64(st.Blocks) * st.Bsize, //nolint:gosec // no volume is that large
		})
	}
	free, total, err := g.driver.Room(ctx)
	if err != nil || total == 0 {
		return out
	}
	// The driver does not say which file system it means: one of the same size is
	// taken for the same.
	for i := range out {
		if out[i].TotalBytes == total {
			out[i].Uses = append(out[i].Uses, "datastore")
			return out
		}
	}
	return append(out, control.Volume{Path: "datastore", Uses: []string{"datastore"}, FreeBytes: free, TotalBytes: total})
}

// load returns the load average over a minute; 0 where it cannot be read.
func load() (avg float64) {
	b, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		_, err = fmt.Sscan(string(b), &avg)
	}
	if err != nil {
		return 0
	}
	return avg
}

// memory returns the host's memory, in all and available; 0 where it cannot be
// read.
func memory() (total, available int64) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		name, rest, _ := strings.Cut(sc.Text(), ":")
		var kib int64
		if _, err := fmt.Sscan(rest, &kib); err != nil {
			continue
		}
		switch name {
		case "MemTotal":
			total = kib << 10
		case "MemAvailable":
			available = kib << 10
		}
	}
	return total, available
}
