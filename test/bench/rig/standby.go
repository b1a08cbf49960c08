package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/rpc"
	"os"
	"path/filepath"
	"time"

	"rebound/internal/dr"
	"rebound/internal/identity"
)

// StandbyCommand is the argument with which this program is the standby
// process.
const StandbyCommand = "standby"

// Standby is the standby process, seen from outside.
type Standby struct {
	r        *Rig
	addr     string
	source   identity.Bundle // of the gateway that may send
	name     dr.GatewayID
	proc     *process
	commands *rpc.Client
	views    string
}

// NewStandby starts the standby process.
func (r *Rig) NewStandby(ctx context.Context) (*Standby, error) {
	dir := filepath.Join(r.run, "ca")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	ca, err := identity.OpenCA(dir, "bench")
	if err != nil {
		return nil, err
	}
	s := &Standby{r: r, name: "standby"}
	if s.source, err = ca.Issue(identity.RoleGateway, "source", 24*time.Hour, "127.0.0.1"); err != nil {
		return nil, err
	}
	own, err := ca.Issue(identity.RoleGateway, string(s.name), 24*time.Hour, "127.0.0.1")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s.addr, s.views = "127.0.0.1:"+port, filepath.Join(r.run, "views.sock")
	cfg := serveConfig{
		Dir: filepath.Join(r.Data, "standby"), Control: filepath.Join(r.run, "standby.sock"), Views: s.views,
		Port: port, Identity: own, Profile: r.profile("standby"),
	}
	in, err := json.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	if s.proc, err = r.startWith("standby", bytes.NewReader(in), r.Self, StandbyCommand); err != nil {
		return nil, err
	}
	r.onClose(s.proc.stop) // in order: its profile is written at its end
	err = s.proc.await(ctx, "the standby", func() (err error) {
		s.commands, err = rpc.Dial("unix", cfg.Control)
		return err
	})
	if err != nil {
		return nil, err
	}
	r.onClose(s.commands.Close)
	return s, nil
}

// call runs a command of the standby process.
func (s *Standby) call(ctx context.Context, method string, args, result any) error {
	c := s.commands.Go("Standby."+method, args, result, make(chan *rpc.Call, 1))
	select {
	case <-c.Done:
		if c.Error != nil {
			return fmt.Errorf("standby: %s: %w", method, c.Error)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("standby: %s: %w", method, ctx.Err())
	case <-s.proc.done:
		return fmt.Errorf("standby: %s: the process has ended: %v", method, s.proc.err)
	}
}

// Lag samples the age of the group's newest confirmed durable moment.
func (s *Standby) Lag(ctx context.Context, a LagArgs) (ms []float64, err error) {
	return ms, s.call(ctx, "Lag", a, &ms)
}

// View asks the standby process for a history; see History.
func (s *Standby) View(ctx context.Context, a HistoryArgs) (h History, err error) {
	return h, s.call(ctx, "View", a, &h)
}

// ViewURI and FileURI are the addresses of what View serves.
func (s *Standby) ViewURI() string { return unixURI(s.views, viewExport) }

// FileURI is the address of the plain file.
func (s *Standby) FileURI() string { return unixURI(s.views, fileExport) }
