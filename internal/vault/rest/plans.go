package rest

import (
	"time"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
)

// Plan is a recovery plan: machines in up to seven boot groups, with actions
// before and after each. It is also the document of POST /plans, PUT
// /plans/{id} and of 'rebound plan create -f'; JSON and YAML have the same
// names.
type Plan struct {
	ID          dr.PlanID `json:"id" doc:"1 to 63 letters, digits and hyphens"`
	Description string    `json:"description,omitempty"`
	// Groups are the boot groups, in the order in which they boot. Machines are shut
	// down in the reverse order, all failed over at the same time, and
	// then booted group by group, those of one group at the same time.
	Groups []PlanGroup `json:"groups" minItems:"1" maxItems:"7"`
	// Before runs before anything is shut down or started, After once the
	// last boot group is up.
	Before []PlanAction `json:"before,omitempty"`
	After  []PlanAction `json:"after,omitempty"`
}

// PlanGroup is one boot group of a plan.
type PlanGroup struct {
	// Name is for people; empty means the group's number.
	Name string `json:"name,omitempty"`
	// Items are replicated items; a replication group may be named instead
	// of all its members as "group/NAME". A machine is in one boot group
	// only; the members of a replication group may be in different ones,
	// but all of them have to be in the plan.
	Items []string `json:"items"`
	// OnUnhealthy says what happens when a machine of the group fails or is
	// not proven to have booted in time: continue (the default) or stop.
	OnUnhealthy string       `json:"onUnhealthy,omitempty" enum:"continue,stop"`
	Before      []PlanAction `json:"before,omitempty"`
	After       []PlanAction `json:"after,omitempty"`
}

// PlanAction is one action of a plan: exactly one of Script, HTTP, Manual and
// Approval is set.
type PlanAction struct {
	Name string `json:"name" minLength:"1" maxLength:"100"`
	// When says in which runs it is done: forward (failover), back
	// (failback), test (test failover). Empty means all three.
	When []PlanWhen `json:"when,omitempty"`
	// OnFailure is stop (the default) or continue.
	OnFailure string        `json:"onFailure,omitempty" enum:"stop,continue"`
	Script    *PlanScript   `json:"script,omitempty"`
	HTTP      *PlanHTTP     `json:"http,omitempty"`
	Manual    *PlanManual   `json:"manual,omitempty"`
	Approval  *PlanApproval `json:"approval,omitempty"`
}

// What a failure does to the rest of the plan.
const (
	OnFailureStop     = "stop"
	OnFailureContinue = "continue"
)

// PlanWhen is a kind of run.
type PlanWhen string

// The kinds of runs in which an action is done.
const (
	WhenForward PlanWhen = "forward"
	WhenBack    PlanWhen = "back"
	WhenTest    PlanWhen = "test"
)

// Place says where an action runs: "target" (the gateway of the site to which
// the plan goes, the default of scripts), "source", "vault" (HTTP only, its
// default), or "gateway/NAME".
type Place string

// The places that are not gateways' names.
const (
	AtTarget Place = "target"
	AtSource Place = "source"
	AtVault  Place = "vault"
)

// PlanScript runs a script on a gateway, in a process group of its own. Exit
// code 0 is success.
type PlanScript struct {
	At Place `json:"at,omitempty" doc:"target (default), source or gateway/NAME"`
	// Text is the script itself, beginning with #!, or Path names a file on
	// the gateway. One of the two is set.
	Text string   `json:"text,omitempty" maxLength:"65536"`
	Path string   `json:"path,omitempty"`
	Args []string `json:"args,omitempty"`
	// Env is added to the environment, below the variables REBOUND_….
	Env map[string]string `json:"env,omitempty"`
	// TimeoutSeconds is 300 when left out; after it the process group is killed.
	TimeoutSeconds int64 `json:"timeoutSeconds,omitempty" minimum:"0" maximum:"86400"`
}

// PlanHTTP sends an HTTP request. URL, header values and Body are templates (Go
// text/template) over the same values as a script's environment, such as
// {{.REBOUND_PLAN}}; {{json .REBOUND_ITEMS}} quotes a value for JSON.
type PlanHTTP struct {
	At      Place             `json:"at,omitempty" doc:"vault (default), target, source or gateway/NAME"`
	Method  string            `json:"method,omitempty" enum:"GET,HEAD,POST,PUT,PATCH,DELETE" doc:"POST when left out"`
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers,omitempty"`
	Body    string            `json:"body,omitempty" maxLength:"65536"`
	// Expect lists the statuses that mean success; empty means 200 to 299.
	Expect []int `json:"expect,omitempty"`
	// Retries after a failure, with pauses of 1 s, 2 s, 4 s … 30 s. A call
	// that is not repeatable by its method (POST, PATCH) and has no retries is never
	// sent twice: when the sender dies in the middle, a person decides.
	Retries int `json:"retries,omitempty" minimum:"0" maximum:"100"`
	// TimeoutSeconds of each attempt; 30 when left out.
	TimeoutSeconds int64 `json:"timeoutSeconds,omitempty" minimum:"0" maximum:"3600"`
}

// PlanManual waits until a person says that it is done.
type PlanManual struct {
	Text string `json:"text" minLength:"1" maxLength:"4096"`
}

// PlanApproval waits for the approval of a person other than the one who
// started the plan.
type PlanApproval struct {
	Text string `json:"text,omitempty" maxLength:"4096"`
	// Role is the least role of the one who approves; operator when left out.
	Role string `json:"role,omitempty" enum:"operator,contributor,owner"`
}

// PlanView is a plan as the API shows it.
type PlanView struct {
	Plan
	// Home and Recovery are the sites that all its machines share.
	Home      dr.SiteID    `json:"homeSite,omitempty"`
	Recovery  dr.SiteID    `json:"recoverySite,omitempty"`
	Direction dr.Direction `json:"direction,omitempty"`
	Machines  int          `json:"machines"`
	// States counts the machines by state; Problems says what is wrong with
	// the plan itself (a machine that is no longer protected).
	States            map[lifecycle.State]int     `json:"states"`
	Problems          []string                    `json:"problems,omitempty"`
	RunningJob        dr.JobID                    `json:"runningJob,omitempty"`
	LastJob           dr.JobID                    `json:"lastJob,omitempty"`
	LastRun           int                         `json:"lastRun,omitempty"`
	Created           time.Time                   `json:"created"`
	ChangedAt         time.Time                   `json:"changedAt"`
	AllowedOperations []lifecycle.OperationStatus `json:"allowedOperations"`
}

// PlanRun is one run of a plan: the history of its RTO and RPO.
type PlanRun struct {
	Plan      dr.PlanID           `json:"plan"`
	Run       int                 `json:"run"`
	Job       dr.JobID            `json:"job"`
	Operation lifecycle.Operation `json:"operation"`
	Direction dr.Direction        `json:"direction"`
	// Mode is planned, unplanned or test; empty for runs that start nothing.
	Mode    string    `json:"mode,omitempty"`
	By      string    `json:"by"`
	State   JobState  `json:"state"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	// RTOSeconds is the time from the start of the run to the last machine's
	// proof of health, null while one lacks it and for runs that start nothing;
	// WaitedSeconds of it was spent waiting for people.
	RTOSeconds    *float64 `json:"rtoSeconds"`
	WaitedSeconds float64  `json:"waitedSeconds"`
	// RPOSeconds is the greatest loss of a machine.
	RPOSeconds *float64         `json:"rpoSeconds"`
	Machines   []PlanRunMachine `json:"machines"`
}

// PlanRunMachine is what became of one machine in a run.
type PlanRunMachine struct {
	Item  dr.ItemID  `json:"item"`
	Group dr.GroupID `json:"group"`
	// BootGroup counts from 1.
	BootGroup int    `json:"bootGroup"`
	State     string `json:"state" enum:"pending,started,healthy,failed,skipped,done"`
	// Proof says how it was shown that the machine boots.
	Proof   string    `json:"proof,omitempty"`
	Started time.Time `json:"started,omitzero"`
	Healthy time.Time `json:"healthy,omitzero"`
	Point   time.Time `json:"point,omitzero" doc:"the moment that it started from"`
	// Position is the exact write that it started from.
	Position string           `json:"position,omitempty"`
	Problem  *problem.Problem `json:"problem,omitempty"`
	// RTOSeconds from the start of the run to Healthy; LostSeconds of writes.
	RTOSeconds  *float64 `json:"rtoSeconds"`
	LostSeconds *float64 `json:"lostSeconds"`
}

// PlanReport is everything about one run, for the record.
type PlanReport struct {
	Vault string    `json:"vault"`
	Made  time.Time `json:"made"`
	// Document is the plan as it was when the run began.
	Document Plan    `json:"document"`
	Run      PlanRun `json:"run"`
	Job      Job     `json:"job"`
	// Jobs are the jobs of the replication groups that the run started.
	Jobs []Job `json:"jobs"`
}

// Step is a step inside of a task of a plan's job: a task of the job that works
// on one replication group.
type Step struct {
	Job     dr.JobID         `json:"job"`
	Group   dr.GroupID       `json:"group"`
	Task    string           `json:"task"`
	Title   string           `json:"title"`
	State   JobState         `json:"state"`
	Started time.Time        `json:"started,omitzero"`
	Ended   time.Time        `json:"ended,omitzero"`
	Problem *problem.Problem `json:"problem,omitempty"`
}

// Waiting says what a task waits for, and who may answer.
type Waiting struct {
	// Kind is manual (answer: resume or reject), approval (approve or
	// reject), or decision (a script or a call was cut short: resume takes
	// it as done, resume with again runs it anew, reject as failed).
	Kind  string    `json:"kind" enum:"manual,approval,decision"`
	Text  string    `json:"text"`
	Since time.Time `json:"since"`
	// Role is the least role of the one who answers, NotBy who may not.
	Role  string `json:"role"`
	NotBy string `json:"notBy,omitempty"`
}

// Decision is a person's answer to what a task waited for.
type Decision struct {
	Verdict string `json:"verdict" enum:"resume,approve,reject"`
	// Attempt of the job that it answers.
	Attempt int       `json:"attempt"`
	By      string    `json:"by"`
	At      time.Time `json:"at"`
	Note    string    `json:"note,omitempty"`
	Again   bool      `json:"again,omitempty"`
}

// JobAnswer is the body of POST /jobs/{id}/{cancel|restart|resume|approve|reject};
// it may be left out.
type JobAnswer struct {
	Note string `json:"note,omitempty" maxLength:"4096"`
	// Again of resume: run the action that was cut short once more.
	Again bool `json:"again,omitempty"`
}
