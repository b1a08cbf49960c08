package vaultkill

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"rebound/internal/dr"
	"rebound/internal/gateway"
	"rebound/internal/site"
	"rebound/internal/site/fake"
)

// order is a line to a gateway process on its standard input; it answers each
// with a line of its own.
type order struct {
	// Do is add, write, fail, machines, effects, restart or stop.
	Do      string         `json:"do"`
	Machine dr.MachineName `json:"machine,omitempty"`
	Byte    byte           `json:"byte,omitempty"`
	// Method is what fails from now on; empty: nothing does.
	Method string `json:"method,omitempty"`
}

type answer struct {
	Error    string                  `json:"error,omitempty"`
	Machines map[dr.MachineName]view `json:"machines,omitempty"`
	Effects  []string                `json:"effects,omitempty"`
}

// view is a machine as its site sees it: power, and the first byte of its disk.
type view struct {
	State   site.PowerState `json:"state"`
	Standby bool            `json:"standby,omitempty"`
	Byte    byte            `json:"byte"`
}

// host is a gateway process: a real gateway over a site in memory. A restart of
// the gateway leaves the site as it is, as hypervisors do.
type host struct {
	dir    string
	driver *fake.Driver
	log    *slog.Logger

	mu      sync.Mutex
	effects []string
	fails   string

	stop context.CancelFunc
	done chan error
}

func serveGateway(ctx context.Context) error {
	h := &host{dir: os.Getenv(envDir)}
	h.log = slog.New(counting{logger().Handler(), h})
	h.driver = fake.New(fake.Options{Dir: filepath.Join(h.dir, "site"), Fault: h.enter, Networks: []site.Network{{Name: "lan", Kind: "user"}, {Name: "lab", Kind: "bridge"}}})
	if err := h.start(ctx); err != nil {
		return err
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var o order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			return err
		}
		a, err := h.obey(ctx, o)
		if err != nil {
			a.Error = err.Error()
		}
		b, err := json.Marshal(a)
		if err != nil {
			return err
		}
		fmt.Println(string(b))
	}
	return h.end()
}

// start opens the gateway from its directory, which has enrolled.
func (h *host) start(ctx context.Context) error {
	enr, holder, ok, err := gateway.LoadEnrolment(h.dir)
	if err != nil || !ok {
		return errors.Join(err, errors.New("not enrolled"))
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	listen := "127.0.0.1:0"
	if b, err := os.ReadFile(filepath.Join(h.dir, "data-addr")); err == nil {
		listen = string(b)
	}
	ctx, h.stop = context.WithCancel(ctx)
	g, err := gateway.Open(ctx, gateway.Config{
		Name: enr.Name, Site: enr.Site, Dir: h.dir, RunDir: os.Getenv(envAddr), VaultAddr: enr.VaultAddr, DataListen: listen,
		Identity: holder, Driver: h.driver, CaptureArgv: []string{exe, "capture"}, Log: h.log,
	})
	if err != nil {
		return err
	}
	if err := h.driver.ReopenViews(ctx); err != nil {
		return err
	}
	inv, err := g.Inventory(ctx)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(h.dir, "data-addr"), []byte(inv.DataAddr), 0o600); err != nil {
		return err
	}
	h.done = make(chan error, 1)
	go func() { h.done <- g.Run(ctx) }()
	return nil
}

func (h *host) end() error {
	h.stop()
	return <-h.done
}

func (h *host) obey(ctx context.Context, o order) (a answer, err error) {
	switch o.Do {
	case "add":
		def := dr.Definition{
			Name: o.Machine, UUID: "uuid-" + string(o.Machine), CPUs: 1, MemoryMiB: 64, Firmware: dr.BIOS, MachineType: "q35",
			NICs:  []dr.NIC{{MAC: "52:54:00:00:00:01", Network: "lan", Model: "virtio-net-pci"}},
			Disks: []dr.DiskSpec{{ID: "disk0", Bus: "virtio", SizeBytes: 1 << 20}},
		}
		return a, errors.Join(h.driver.Create(ctx, def), h.driver.Start(ctx, o.Machine, site.StartOptions{}))
	case "write":
		return a, h.driver.GuestWrite(ctx, o.Machine, "disk0", []byte{o.Byte}, 0)
	case "fail":
		h.mu.Lock()
		h.fails = o.Method
		h.mu.Unlock()
		return a, nil
	case "machines":
		a.Machines, err = h.look(ctx)
		return a, err
	case "effects":
		h.mu.Lock()
		defer h.mu.Unlock()
		a.Effects, h.effects = h.effects, nil
		return a, nil
	case "stop":
		return a, h.end()
	case "start":
		return a, h.start(ctx)
	}
	return a, fmt.Errorf("cannot %q", o.Do)
}

func (h *host) look(ctx context.Context) (map[dr.MachineName]view, error) {
	list, err := h.driver.Machines(ctx)
	if err != nil {
		return nil, err
	}
	out := map[dr.MachineName]view{}
	for _, m := range list {
		v := view{State: m.State, Standby: m.Standby}
		if m.State == site.Running {
			p := make([]byte, 1)
			if err := h.driver.GuestRead(ctx, m.Definition.Name, "disk0", p, 0); err != nil {
				return nil, err
			}
			v.Byte = p[0]
		}
		out[m.Definition.Name] = v
	}
	return out, nil
}

// enter is told of each call of the site and counts those with an effect.
func (h *host) enter(c fake.Call) error {
	h.mu.Lock()
	fails := h.fails
	h.mu.Unlock()
	if fails != "" && fails == c.Method {
		return errors.New("made to fail")
	}
	switch c.Method {
	case "Create", "Start", "Stop", "Delete", "StartRecovered", "DiscardRecovered", "CommitRecovered":
	default:
		return nil
	}
	m, err := h.driver.Machine(context.Background(), c.Machine)
	there, on := err == nil, err == nil && m.State != site.Off
	effect := there
	switch c.Method {
	case "Create":
		effect = !there
	case "Start", "StartRecovered":
		effect = !on
	case "Stop", "DiscardRecovered":
		effect = on
	case "CommitRecovered":
		effect = m.Standby
	}
	if effect {
		h.count(c.Method + " " + string(c.Machine))
	}
	return nil
}

func (h *host) count(effect string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.effects = append(h.effects, effect)
}

// counting counts the commands that a gateway has run: each execution is one
// line of its log, an answer from the ledger is none.
type counting struct {
	slog.Handler
	h *host
}

func (c counting) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "command ended" {
		text := "command"
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "command" || a.Key == "task" {
				text += " " + a.Value.String()
			}
			return true
		})
		c.h.count(text)
	}
	return c.Handler.Handle(ctx, r)
}

func (c counting) WithAttrs(a []slog.Attr) slog.Handler {
	return counting{c.Handler.WithAttrs(a), c.h}
}
func (c counting) WithGroup(n string) slog.Handler { return counting{c.Handler.WithGroup(n), c.h} }
