package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/lab/demo"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// TestBadInput asks real gateways for what cannot be: each refusal has its code
// and changes nothing.
func TestBadInput(t *testing.T) {
	r := newRig(t, options{guests: []string{"web"}})
	r.addOddMachines()
	r.power(true)
	r.untilRunning("twin")
	r.untilRunning("huge")
	r.badProtects()
	r.noRoom()
	r.power(false)
	r.badThings()
	r.start()
	r.failoverWithoutPoint()
	r.badOperations()
	r.foreignCertificates()
	r.foreignVault()
	r.unknownDisk()
	r.working()
	r.recovers("after all refusals", 0)
}

// power starts or stops the odd machines at home: only what runs can be
// protected. They have nothing to boot from.
func (r *rig) power(on bool) {
	r.t.Helper()
	d, err := r.w.Driver(demo.HomeSite)
	must(r.t, err)
	defer d.Close()
	for _, name := range []dr.MachineName{"twin", "huge"} {
		if on {
			must(r.t, d.Start(r.ctx, name, site.StartOptions{}))
		} else {
			must(r.t, d.Stop(r.ctx, name, site.Hard, 10*time.Second))
		}
	}
}

// untilRunning waits until the vault knows that a machine at home runs.
func (r *rig) untilRunning(name dr.MachineName) {
	r.t.Helper()
	r.until(string(name)+" runs", func() error {
		m, err := r.w.Client.Machine(r.ctx, demo.HomeSite, name)
		if err == nil && m.State != site.Running {
			err = fmt.Errorf("it is %s", m.State)
		}
		return err
	})
}

// addOddMachines makes machines at the two sites that cannot be protected.
func (r *rig) addOddMachines() {
	r.t.Helper()
	disk := func(size int64) []dr.DiskSpec {
		return []dr.DiskSpec{{ID: "disk0", Bus: "virtio", Serial: "s0", SizeBytes: size}}
	}
	make := func(s dr.SiteID, name dr.MachineName, disks []dr.DiskSpec) {
		d, err := r.w.Driver(s)
		must(r.t, err)
		defer d.Close()
		def := r.built["web"].Definition
		def.Name, def.UUID, def.Disks = name, fmt.Sprintf("%08x-0000-4000-8000-%012x", len(name), time.Now().UnixNano()&0xffffffffffff), disks
		must(r.t, d.Create(r.ctx, def))
	}
	make(demo.HomeSite, "diskless", nil)
	make(demo.HomeSite, "twin", disk(1<<20))
	make(demo.CloudSite, "twin", disk(1<<20))
	make(demo.HomeSite, "huge", disk(8<<40))
	r.until("the vault knows the machines", func() error {
		ms, err := r.w.Client.Machines(r.ctx, "")
		if err == nil && len(ms) != 5 {
			err = fmt.Errorf("%d machines", len(ms))
		}
		return err
	})
}

// badProtects are refused at once and leave no job.
func (r *rig) badProtects() {
	r.t.Helper()
	for what, c := range map[string]struct {
		req  rest.ProtectRequest
		code problem.Code
	}{
		"unknown machine": {rest.ProtectRequest{Machines: []dr.MachineName{"nobody"}, Site: demo.HomeSite, To: demo.CloudSite}, problem.UnknownMachine},
		"unknown target":  {rest.ProtectRequest{Machines: []dr.MachineName{"web"}, To: "mars"}, problem.UnknownSite},
		"unknown site":    {rest.ProtectRequest{Machines: []dr.MachineName{"web"}, Site: "mars", To: demo.CloudSite}, problem.UnknownSite},
		"unknown policy":  {rest.ProtectRequest{Machines: []dr.MachineName{"web"}, To: demo.CloudSite, Policy: "none"}, problem.UnknownPolicy},
		"no disks":        {rest.ProtectRequest{Machines: []dr.MachineName{"diskless"}, To: demo.CloudSite}, problem.MachineHasNoDisks},
		"name taken":      {rest.ProtectRequest{Machines: []dr.MachineName{"twin"}, Site: demo.HomeSite, To: demo.CloudSite}, problem.NameTaken},
		"to itself":       {rest.ProtectRequest{Machines: []dr.MachineName{"web"}, Site: demo.HomeSite, To: demo.HomeSite}, problem.InvalidRequest},
	} {
		before := r.world()
		_, err := r.w.Client.Protect(r.ctx, c.req)
		wantCode(r.t, what, err, c.code)
		r.unchanged(what, before)
	}
}

// noRoom ends the job and takes away what it had begun.
func (r *rig) noRoom() {
	r.t.Helper()
	before := r.world()
	job, err := r.w.Client.Protect(r.ctx, rest.ProtectRequest{Machines: []dr.MachineName{"huge"}, To: demo.CloudSite})
	must(r.t, err)
	job, err = r.w.Client.WaitJob(r.ctx, job.ID, nil)
	must(r.t, err)
	if job.State != rest.JobFailed || len(job.Errors) == 0 || job.Errors[0].Code != problem.NoRoom {
		r.t.Errorf("protecting 8 TiB: %s, %v", job.State, job.Errors)
	}
	_, err = r.w.Client.Group(r.ctx, "huge")
	wantCode(r.t, "the group without room", err, problem.UnknownGroup)
	after := r.world()
	before.jobs = after.jobs
	if before != after {
		r.t.Errorf("protecting without room changed %+v to %+v", before, after)
	}
}

// badThings are names of nothing, and a machine that is not there.
func (r *rig) badThings() {
	r.t.Helper()
	c, before := r.w.Client, r.world()
	errs := map[problem.Code]error{}
	_, errs[problem.UnknownGateway] = c.Gateway(r.ctx, "nobody")
	_, errs[problem.UnknownItem] = c.Item(r.ctx, "nobody")
	_, errs[problem.UnknownJob] = c.Job(r.ctx, "nobody")
	_, errs[problem.UnknownGroup] = c.Operate(r.ctx, client.GroupTarget("nobody"), lifecycle.Failover, rest.OperationRequest{})
	_, errs[problem.NameTaken] = c.CreateSite(r.ctx, rest.NewSite{ID: demo.HomeSite})
	_, errs[problem.HypervisorError] = c.ImportMachine(r.ctx, rest.ImportMachine{Site: demo.HomeSite, QMPSocket: filepath.Join(r.dir, "no-socket")})
	for code, err := range errs {
		wantCode(r.t, string(code), err, code)
	}
	r.unchanged("names of nothing", before)
}

// failoverWithoutPoint fails over while the protection waits for a frozen
// standby, so that there is no point yet.
func (r *rig) failoverWithoutPoint() {
	r.t.Helper()
	must(r.t, stopProcess(r.w.PID(string(demo.CloudGW)), func() {
		// The standby is frozen: nothing becomes durable there.
		job, err := r.w.Client.Protect(r.ctx, r.protectRequest())
		must(r.t, err)
		_, err = r.w.Client.Operate(r.ctx, client.GroupTarget(group), lifecycle.Failover, rest.OperationRequest{Mode: "unplanned"})
		wantCode(r.t, "failover while the protection begins", err, problem.OperationRunning)
		if g, gerr := r.w.Client.Group(r.ctx, group); gerr != nil || g.Points != 0 || g.Generation > 1 || len(r.w.Guests(demo.CloudSite)) != 0 {
			r.t.Errorf("after the refused failover: %+v, %v", g, gerr)
		}
		r.t.Logf("job %s waits for the frozen gateway", job.ID)
	}))
	r.untilState(lifecycle.Protected)
}

// badOperations are refused in the state Protected.
func (r *rig) badOperations() {
	r.t.Helper()
	for op, code := range map[lifecycle.Operation]problem.Code{
		lifecycle.Commit: problem.OperationNotAllowed, lifecycle.Undo: problem.OperationNotAllowed, lifecycle.ChangePoint: problem.OperationNotAllowed,
		lifecycle.Reprotect: problem.OperationNotAllowed, lifecycle.Resume: problem.OperationNotAllowed, lifecycle.TestCleanup: problem.OperationNotAllowed,
		lifecycle.Failback: problem.OperationNotAllowed,
	} {
		before := r.world()
		var req rest.OperationRequest
		if op == lifecycle.ChangePoint {
			req.Point = dr.Latest
		}
		_, err := r.w.Client.Operate(r.ctx, client.GroupTarget(group), op, req)
		wantCode(r.t, string(op), err, code)
		r.unchanged(string(op), before)
	}
	for sel, code := range map[dr.PointSelector]problem.Code{
		"2001-01-01T00:00:00Z": problem.UnknownPoint, "no-such-point": problem.UnknownPoint,
	} {
		_, err := r.w.Client.Resolve(r.ctx, client.GroupTarget(group), sel)
		wantCode(r.t, "point "+string(sel), err, code)
		before := r.world()
		job, err := r.w.Client.Operate(r.ctx, client.GroupTarget(group), lifecycle.Failover, rest.OperationRequest{Mode: "unplanned", Point: sel})
		if err == nil {
			if job, err = r.w.Client.WaitJob(r.ctx, job.ID, nil); err == nil && job.State == rest.JobFailed && len(job.Errors) > 0 {
				err = &job.Errors[0]
			}
		}
		wantCode(r.t, "failover to "+string(sel), err, code)
		r.untilState(lifecycle.Protected)
		after := r.world()
		before.jobs = after.jobs
		if before != after {
			r.t.Errorf("failover to %s changed %+v to %+v", sel, before, after)
		}
	}
}

// foreignCertificates knock at the vault and at a gateway's data port.
func (r *rig) foreignCertificates() {
	r.t.Helper()
	dir := filepath.Join(r.dir, "foreign-ca")
	must(r.t, os.Mkdir(dir, 0o700))
	ca, err := identity.OpenCA(dir, "another-vault")
	must(r.t, err)
	bundle, err := ca.Issue(identity.RoleGateway, string(demo.HomeGW), time.Hour)
	must(r.t, err)
	conf, err := bundle.ClientTLS(identity.RoleVault, "vault")
	must(r.t, err)
	conf.VerifyConnection = nil // even one that does not look at its peer
	_, err = control.Dial(r.ctx, r.w.VaultAddr(), conf)
	wantCode(r.t, "a foreign certificate at the vault", err, problem.WrongVault)

	g, err := r.w.Client.Gateway(r.ctx, demo.CloudGW)
	must(r.t, err)
	before := r.world()
	conf, err = bundle.ClientTLS(identity.RoleGateway, string(demo.CloudGW))
	must(r.t, err)
	_, err = (&tls.Dialer{Config: conf}).DialContext(r.ctx, "tcp", g.DataAddr)
	if err == nil {
		r.t.Error("a foreign client trusts a gateway's data port")
	}
	conf.VerifyConnection, conf.InsecureSkipVerify = nil, true
	if conn, err := (&tls.Dialer{Config: conf}).DialContext(r.ctx, "tcp", g.DataAddr); err == nil {
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		n, err := io.Copy(io.Discard, conn)
		if n != 0 || err == nil || strings.Contains(err.Error(), "timeout") {
			r.t.Errorf("a foreign certificate at the data port: read %d bytes, %v", n, err)
		}
		_ = conn.Close()
	}
	r.unchanged("foreign certificates", before)
}

// foreignVault starts another vault and points a gateway of this one at it.
func (r *rig) foreignVault() {
	r.t.Helper()
	addr, err := r.w.StartVaultAt(r.ctx, "other-vault", filepath.Join(r.dir, "other-vault"))
	must(r.t, err)
	dir := filepath.Join(r.dir, "strayed")
	must(r.t, os.CopyFS(dir, os.DirFS(r.w.GatewayDir(demo.CloudSite))))
	ctx, cancel := context.WithTimeout(r.ctx, 3*time.Second)
	defer cancel()
	run, err := os.MkdirTemp("", "rb-stray-")
	must(r.t, err)
	defer os.RemoveAll(run)
	cmd := exec.CommandContext(ctx, program, "gateway", "serve", "--dir", dir, "--datastore", filepath.Join(r.dir, "strayed-datastore"),
		"--run-dir", run, "--listen", "127.0.0.1:0", "--vault", addr)
	out, _ := cmd.CombinedOutput() // it tries until it is killed
	if !strings.Contains(string(out), string(problem.WrongVault)) || strings.Contains(string(out), "connected to vault") {
		r.t.Errorf("a gateway at another vault says: %s", out)
	}
	must(r.t, r.w.Kill("other-vault"))
}

// unknownDisk exports a disk that is not there from a copy of the journal.
func (r *rig) unknownDisk() {
	r.t.Helper()
	journal := filepath.Join(r.w.GatewayDir(demo.CloudSite), "journals", string(group), "journal")
	out := filepath.Join(r.dir, "none.raw")
	text, err := exec.CommandContext(r.ctx, program, "journal", "export", journal, "--point", "latest", "--disk", "web/none", "--out", out).CombinedOutput()
	if err == nil || !(strings.Contains(string(text), string(problem.UnknownDisk)) || strings.Contains(string(text), string(problem.JournalInUse))) {
		r.t.Errorf("export of an unknown disk of a journal in use: %v: %s", err, text)
	}
	if _, err := os.Stat(out); err == nil {
		r.t.Error("the refused export left a file")
	}
}

// picture is what a refusal must not change.
type picture struct {
	jobs, groups, machines, homeGuests, cloudGuests int
	state                                           lifecycle.State
	generation                                      dr.Generation
	standby                                         string
}

func (r *rig) world() picture {
	r.t.Helper()
	jobs, err := r.w.Client.Jobs(r.ctx, "")
	must(r.t, err)
	groups, err := r.w.Client.Groups(r.ctx)
	must(r.t, err)
	machines, err := r.w.Client.Machines(r.ctx, "")
	must(r.t, err)
	entries, err := filepath.Glob(filepath.Join(r.w.Datastore(demo.CloudSite), "machines", "*"))
	must(r.t, err)
	p := picture{
		jobs: len(jobs), groups: len(groups), machines: len(machines), standby: strings.Join(entries, " "),
		homeGuests: len(r.w.Guests(demo.HomeSite)), cloudGuests: len(r.w.Guests(demo.CloudSite)),
	}
	if len(groups) > 0 {
		p.state, p.generation = groups[0].State, groups[0].Generation
	}
	return p
}

func (r *rig) unchanged(what string, before picture) {
	r.t.Helper()
	if after := r.world(); after != before {
		r.t.Errorf("%s changed %+v to %+v", what, before, after)
	}
}
