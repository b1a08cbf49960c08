// Package guest is what runs inside the lab's guests, as process 1: it loads
// modules, mounts the two file systems, brings the network up, keeps the
// ledger going and reports it, runs the agent, and powers off in order when
// the power button is pressed.
//
// What it promises: a record is reported only after it is durable; nothing on
// the way to the first new record waits for the network's absent parts. Only
// the command init beside it may call it; it must never be linked into the
// product.
package guest

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rebound/internal/lab/ledger"
	"rebound/internal/lab/wire"
)

// Main runs the guest and powers it off at the end. It never returns.
func Main() {
	if err := mountKernel(); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
		powerOff()
	}
	con := newConsole()
	if err := run(con); err != nil {
		con.event(wire.Event{Event: "error", Detail: err.Error()})
	}
	powerOff()
}

// powerOff ends the machine. Main's console has said why.
func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // process 1 must not end
}

// run is the guest's life from its mounts to an orderly end.
func run(con *console) error {
	boot, bootBytes, err := bootID()
	if err != nil {
		return err
	}
	con.boot = boot
	con.event(wire.Event{Event: "boot"})
	fs, err := mountLedgers()
	if err != nil {
		return err
	}
	defer func() {
		if err := fs.unmount(); err != nil {
			con.event(wire.Event{Event: "error", Detail: err.Error()})
			return
		}
		con.event(wire.Event{Event: "stopped"})
	}()
	conf, err := readConfig(fs.dirs[0])
	if err != nil {
		return err
	}
	con.guest = conf.Name
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	button, err := openPowerButton()
	if err != nil {
		return err
	}
	go func() {
		button.wait()
		stop()
	}()
	g := &guest{con: con, conf: conf, boot: boot, bootBytes: bootBytes, dirs: fs.dirs, heard: newHeard(), agentCfg: make(chan wire.AgentConfig, 1)}
	return g.live(ctx)
}

// guest is one boot.
type guest struct {
	con       *console
	conf      wire.GuestConfig
	boot      string
	bootBytes [16]byte
	dirs      [ledger.Files]string
	heard     *heard
	book      *book
	agentCfg  chan wire.AgentConfig // capacity 1
}

// live runs the parts until ctx ends, then stops in order: the ledger ends
// with a whole record, and the collector hears of it.
func (g *guest) live(ctx context.Context) error {
	var paths [ledger.Files]string
	for i, dir := range g.dirs {
		paths[i] = filepath.Join(dir, wire.LedgerPath)
	}
	w, found, raw, err := ledger.Open(paths, g.conf.Name, g.bootBytes)
	if err != nil {
		return err
	}
	g.book = newBook(found, g.conf.RecordsPerSecond)
	g.con.event(wire.Event{Event: "state", State: &found.State, Newest: &found.State.Newest})
	var wg sync.WaitGroup
	netUp := make(chan []wire.NIC, 1)
	wg.Go(func() { netUp <- g.bringUp(ctx) })
	wg.Go(func() { g.afterNetwork(ctx, netUp, found.State, raw) })
	wg.Go(func() { g.progress(ctx) })
	wg.Go(func() { g.runGuestAgent(ctx) })
	err = g.write(ctx, w)
	g.book.end()
	g.con.event(wire.Event{Event: "stopping", Newest: new(w.Newest())})
	wg.Wait()
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	return err
}

// afterNetwork runs what needs the network.
func (g *guest) afterNetwork(ctx context.Context, up <-chan []wire.NIC, found ledger.State, raw [ledger.Files][]byte) {
	var nics []wire.NIC
	select {
	case nics = <-up:
	case <-ctx.Done():
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { g.report(ctx, nics, found) })
	wg.Go(func() { g.greetAndListen(ctx, nics) })
	wg.Go(func() { g.answerPeers(ctx) })
	wg.Go(func() { g.assertReach(ctx, nics) })
	wg.Go(func() { g.uploadLedger(ctx, raw) })
	wg.Go(func() { g.runAgent(ctx) })
	wg.Wait()
}

// write appends records at the wanted rate until ctx ends or the ledger fails.
func (g *guest) write(ctx context.Context, w *ledger.Writer) error {
	first := true
	for {
		peer, ok := g.book.next(ctx)
		if !ok {
			return nil
		}
		r, err := w.Append(time.Now(), peer)
		if err != nil {
			return err
		}
		g.book.wrote(r)
		if first {
			g.con.event(wire.Event{Event: "first", Newest: new(r.Ref())})
			first = false
		}
	}
}

// progress tells the console once a second how far the ledger is.
func (g *guest) progress(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var last ledger.Ref
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if newest := g.book.newest(); newest != last {
			last = newest
			g.con.event(wire.Event{Event: "progress", Newest: &newest})
		}
	}
}

func bootID() (text string, raw [16]byte, err error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", raw, fmt.Errorf("read boot id: %w", err)
	}
	text = strings.TrimSpace(string(b))
	n, err := hex.Decode(raw[:], []byte(strings.ReplaceAll(text, "-", "")))
	if err != nil || n != len(raw) {
		return "", raw, fmt.Errorf("read boot id: %q is none", text)
	}
	return text, raw, nil
}

func readConfig(dir string) (wire.GuestConfig, error) {
	var c wire.GuestConfig
	b, err := os.ReadFile(filepath.Join(dir, wire.ConfigPath))
	if err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("parse configuration: %w", err)
	}
	if c.Name == "" {
		return c, errors.New("parse configuration: no name")
	}
	return c, nil
}
