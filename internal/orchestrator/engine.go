package orchestrator

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
	_ "github.com/dbos-inc/dbos-transact-golang/dbos/driver/sqlite" // DBOS on SQLite

	"rebound/internal/dr"
	"rebound/internal/vault/store"
)

// The identity of every vault process towards DBOS. Both are constants: DBOS
// recovers only the workflows of its own executor id and application version,
// and neither an upgrade nor a move to another host may strand a job. Only the
// holder of the lease launches DBOS, so two executors never share the id. A
// changed workflow needs dbos.Patch.
const (
	executorID         = "vault"
	applicationVersion = "1"
	workflowName       = "job"
	// maxRecoveries is how often a job may be picked up again; DBOS's own
	// limit of 100 would strand a job of a vault in a crash loop.
	maxRecoveries = 1_000_000
	// stopTimeout bounds each stage of DBOS's shutdown.
	stopTimeout = 20 * time.Second
)

// jobInput is what a workflow knows of its job: only what never changes, so
// that its list of tasks is the same in each run.
type jobInput struct {
	Job     dr.JobID
	Attempt int
}

// engine is DBOS, and the only part of Rebound that knows it.
type engine struct {
	ctx dbos.Context
	db  *sql.DB
	run func(dbos.Context, jobInput) (string, error)
}

// step runs f once for the workflow of ctx: its result is kept, and a later
// run of the workflow gets it without running f.
type step func(name string, f func(context.Context) (string, error)) (string, error)

// startEngine opens DBOS in dir. body runs each job; it must do everything
// that has an effect inside of its steps.
func startEngine(ctx context.Context, dir string, log *slog.Logger, body func(jobInput, step) error) (*engine, error) {
	db, err := store.OpenSQLite(filepath.Join(dir, "workflows.db"))
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"DBOS__APPVERSION", "DBOS__VMID", "DBOS__CLOUD"} {
		if os.Getenv(name) != "" {
			db.Close()
			return nil, fmt.Errorf("start workflows: the environment sets %s, which would strand jobs", name)
		}
	}
	// The end of the caller's context must not reach DBOS: it would record
	// running jobs as cancelled. Close stops it instead.
	dctx, err := dbos.NewContext(context.WithoutCancel(ctx), dbos.Config{
		AppName: "rebound-vault", SQLiteSystemDB: db, ExecutorID: executorID, ApplicationVersion: applicationVersion,
		Logger: slog.New(quiet{log.Handler()}),
	})
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("start workflows: %w", err)
	}
	e := &engine{ctx: dctx, db: db}
	e.run = func(c dbos.Context, in jobInput) (string, error) {
		return "", body(in, func(name string, f func(context.Context) (string, error)) (string, error) {
			return dbos.RunAsStep(c, f, dbos.WithStepName(name))
		})
	}
	dbos.RegisterWorkflow(dctx, e.run, dbos.WithWorkflowName(workflowName), dbos.WithMaxRecoveryAttempts(maxRecoveries))
	return e, nil
}

// launch begins to run jobs, those of a dead process first.
func (e *engine) launch() error {
	if err := dbos.Launch(e.ctx); err != nil {
		return fmt.Errorf("launch workflows: %w", err)
	}
	return nil
}

// submit makes sure that a job runs. It may be called again for the same
// attempt; salt makes another workflow of it when an earlier one ended without
// ending the job.
func (e *engine) submit(in jobInput, salt uint64) error {
	id := fmt.Sprintf("%s.%d", in.Job, in.Attempt)
	h, err := dbos.RetrieveWorkflow[string](e.ctx, id)
	if err == nil {
		st, err := h.GetStatus()
		if err != nil {
			return fmt.Errorf("look at workflow %s: %w", id, err)
		}
		switch st.Status {
		case dbos.WorkflowStatusPending, dbos.WorkflowStatusEnqueued, dbos.WorkflowStatusDelayed:
			return nil
		}
		id = fmt.Sprintf("%s.%d", id, salt)
	} else if !errors.Is(err, dbos.ErrNonExistentWorkflow) {
		return fmt.Errorf("look for workflow %s: %w", id, err)
	}
	if _, err := dbos.RunWorkflow(e.ctx, e.run, in, dbos.WithWorkflowID(id)); err != nil {
		return fmt.Errorf("start workflow %s: %w", id, err)
	}
	return nil
}

// stop ends the workflows where they are; the next launch takes them up.
func (e *engine) stop() error {
	err := dbos.Shutdown(e.ctx, stopTimeout)
	return errors.Join(err, e.db.Close())
}

// quiet passes DBOS's warnings on and its chatter as debug.
type quiet struct{ slog.Handler }

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelWarn {
		r.Level = slog.LevelDebug
	}
	if !q.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(a []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(a)} }
func (q quiet) WithGroup(name string) slog.Handler   { return quiet{q.Handler.WithGroup(name)} }
