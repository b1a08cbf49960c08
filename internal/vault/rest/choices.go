package rest

import (
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
)

// Choices are the moments that an operation can start machines from, each with
// what it would lose: what a person sees before a failover is confirmed.
type Choices struct {
	Operation lifecycle.Operation `json:"operation"`
	Target    string              `json:"target"`
	Direction dr.Direction        `json:"direction"`
	// From is the site whose machines are replaced, To the one that starts them.
	From dr.SiteID `json:"from"`
	To   dr.SiteID `json:"to"`
	// Recommended is what the operation takes when no point is given.
	Recommended dr.PointSelector `json:"recommended"`
	Choices     []Choice         `json:"choices"`
	// Spans are the stretches in which any moment can be chosen, by its time
	// or position; Points how many named points there are.
	Spans  []control.Span `json:"spans"`
	Points int            `json:"points"`
	// Verified is the last comparison of the standby with the source; absent
	// when there was none in this direction.
	Verified *Verification `json:"verified,omitempty"`
	AsOf     time.Time     `json:"asOf"`
}

// Choice is one moment to choose.
type Choice struct {
	Selector dr.PointSelector `json:"selector"`
	// PerMachine: each member at its own newest position.
	PerMachine  bool   `json:"perMachine,omitempty"`
	Title       string `json:"title"`
	Recommended bool   `json:"recommended"`
	// Consistency is crash or app; Group says whether all members are at one
	// and the same moment.
	Consistency dr.PointKind `json:"consistency,omitempty"`
	Group       bool         `json:"groupConsistent"`
	// Moment is what the choice means now; absent when it means nothing,
	// which Problem explains.
	Moment *Recovered `json:"moment,omitempty"`
	// NotReceivedSeconds is how old the newest received moment is: what the
	// source wrote since is lost too, unless the failover is planned. Absent
	// when it is not known.
	NotReceivedSeconds *float64         `json:"notReceivedSeconds,omitempty"`
	Warnings           []string         `json:"warnings"`
	Problem            *problem.Problem `json:"problem,omitempty"`
}

// Verification is the outcome of a comparison of the standby with the source.
type Verification struct {
	At        time.Time `json:"at"`
	Bytes     int64     `json:"bytes"`
	Differing int64     `json:"differing"`
	Job       dr.JobID  `json:"job"`
}

// Proof is by what a commit took a machine to be running, kept in the commit's
// job: the task "prove" has a list of them.
type Proof struct {
	Machine dr.MachineName `json:"machine"`
	// Evidence is agent (a heartbeat with a new boot id), guest-agent, probe,
	// or accepted (the hypervisor's word alone, taken as proof by request).
	Evidence string `json:"evidence" enum:"agent,guest-agent,probe,accepted"`
	Detail   string `json:"detail"`
}

// Confirmation is what a person types before something is lost or deleted.
type Confirmation struct {
	// Type is the text to be typed: the name of what is operated on.
	Type string `json:"type"`
	// Because is what is lost or deleted, in one line.
	Because string `json:"because"`
}
