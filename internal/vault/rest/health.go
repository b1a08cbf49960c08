package rest

import (
	"time"

	"rebound/internal/dr"
)

// Severity grades a condition or an event.
type Severity string

// The severities. A condition of severity info does not make anything
// unhealthy.
const (
	SeverityInfo     Severity = "info"
	SeverityWarning  Severity = "warning"
	SeverityCritical Severity = "critical"
)

// The grades of health of an object: ok, or the worst severity of what is open
// on it.
const (
	HealthOK       = "ok"
	HealthWarning  = "warning"
	HealthCritical = "critical"
)

// ObjectKind says what a condition is about.
type ObjectKind string

// The kinds of objects.
const (
	ObjectVault   ObjectKind = "vault"
	ObjectSite    ObjectKind = "site"
	ObjectGateway ObjectKind = "gateway"
	ObjectGroup   ObjectKind = "group"
	ObjectItem    ObjectKind = "item"
	ObjectDisk    ObjectKind = "disk"
	ObjectJob     ObjectKind = "job"
	ObjectWebhook ObjectKind = "webhook"
)

// Object is what a condition is about, and what that belongs to: the fields
// that apply are set.
type Object struct {
	Kind    ObjectKind     `json:"kind" enum:"vault,site,gateway,group,item,disk,job,webhook"`
	ID      string         `json:"id" doc:"of the object; of a disk MACHINE/DISK, of a vault its id"`
	Site    dr.SiteID      `json:"site,omitempty"`
	Gateway dr.GatewayID   `json:"gateway,omitempty"`
	Group   dr.GroupID     `json:"group,omitempty"`
	Item    dr.ItemID      `json:"item,omitempty"`
	Machine dr.MachineName `json:"machine,omitempty"`
	Job     dr.JobID       `json:"job,omitempty"`
}

// Condition is something that is not as it should be. It clears by itself.
type Condition struct {
	// ID numbers the occurrence: a condition that comes back has a new one.
	ID       int64    `json:"id"`
	Code     string   `json:"code"`
	Severity Severity `json:"severity" enum:"info,warning,critical"`
	// Worst is the gravest that it had.
	Worst Severity `json:"worst" enum:"info,warning,critical"`
	Title string   `json:"title"`
	// Text says it of this object, with numbers.
	Text              string   `json:"text"`
	PossibleCauses    []string `json:"possibleCauses"`
	RecommendedAction string   `json:"recommendedAction"`
	Object            Object   `json:"object"`
	// Since is when it appeared, Cleared when it went (zero while it is open).
	Since   time.Time `json:"since"`
	Cleared time.Time `json:"cleared,omitzero"`
	// Acknowledged: a person has seen this occurrence; it still counts.
	Acknowledged *Note `json:"acknowledged,omitempty"`
	// Muted: this condition of this object neither counts for health nor
	// reaches webhooks, until the note expires, though it clears and comes
	// back in between.
	Muted *Note `json:"muted,omitempty"`
}

// Note is what a person left on a condition.
type Note struct {
	By    string    `json:"by"`
	At    time.Time `json:"at"`
	Text  string    `json:"text"`
	Until time.Time `json:"until,omitzero"`
}

// NoteRequest acknowledges or mutes a condition.
type NoteRequest struct {
	Text string `json:"text" minLength:"1" maxLength:"500" doc:"why; kept in the audit log"`
	// Seconds until the note expires: needed to mute, at most a year.
	Seconds int64 `json:"seconds,omitempty" minimum:"0" maximum:"31536000"`
}

// Health is the state of everything in a few numbers. Azure's counts: infrastructure
// first, then items by severity.
type Health struct {
	// Health is the worst of all: ok, warning or critical.
	Health   string `json:"health" enum:"ok,warning,critical"`
	Critical int    `json:"critical"`
	Warning  int    `json:"warning"`
	Info     int    `json:"info"`
	Muted    int    `json:"muted"`
	// Of each kind the objects that are not ok.
	Vault    string         `json:"vault" enum:"ok,warning,critical"`
	Sites    []ObjectHealth `json:"sites"`
	Gateways []ObjectHealth `json:"gateways"`
	Groups   []ObjectHealth `json:"groups"`
	Items    []ObjectHealth `json:"items"`
	Open     []Condition    `json:"conditions" doc:"what is open: infrastructure first, then the worst first"`
	Checked  time.Time      `json:"checked" doc:"when the conditions were last evaluated"`
}

// ObjectHealth is the health of one object.
type ObjectHealth struct {
	ID     string `json:"id"`
	Health string `json:"health" enum:"ok,warning,critical"`
	// Conditions counts what is open on it and not muted.
	Conditions int `json:"conditions"`
}

// Webhook is an address that is told of events.
type Webhook struct {
	ID  string `json:"id"`
	URL string `json:"url"`
	// Filter: empty lists let everything through; lists are joined by AND,
	// their members by OR.
	Filter  WebhookFilter `json:"filter"`
	Enabled bool          `json:"enabled"`
	Created time.Time     `json:"created"`
	// Waiting and Dead count deliveries: not delivered yet, and given up.
	Waiting int `json:"waiting"`
	Dead    int `json:"dead"`
	// FailingSince is set while the oldest delivery cannot be made; LastError
	// says why.
	FailingSince  time.Time `json:"failingSince,omitzero"`
	LastError     string    `json:"lastError,omitempty"`
	LastDelivered time.Time `json:"lastDelivered,omitzero"`
	NextTry       time.Time `json:"nextTry,omitzero"`
}

// WebhookFilter chooses events.
type WebhookFilter struct {
	// Codes of events; a trailing * stands for any rest.
	Codes []string `json:"codes,omitempty" maxItems:"100"`
	// MinSeverity: info (default), warning or critical. The end of a
	// condition passes when its beginning did.
	MinSeverity Severity `json:"minSeverity,omitempty" enum:"info,warning,critical"`
	// Objects are names of sites, gateways, groups, items or machines.
	Objects []string `json:"objects,omitempty" maxItems:"100"`
}

// PutWebhook makes or changes a webhook. Fields left out of an update stay as
// they are.
type PutWebhook struct {
	ID  string `json:"id,omitempty"`
	URL string `json:"url,omitempty" doc:"http or https"`
	// Secret signs the bodies; made by the vault when a new webhook comes
	// without one. It is shown once, in the answer that made it.
	Secret  string         `json:"secret,omitempty" maxLength:"256"`
	Filter  *WebhookFilter `json:"filter,omitempty"`
	Enabled *bool          `json:"enabled,omitempty"`
}

// WebhookSecret is the answer to a webhook that was made; Secret is shown once
// and only when the vault made it.
type WebhookSecret struct {
	Webhook
	Secret string `json:"secret,omitempty"`
}

// Delivery is one event on its way to one webhook.
type Delivery struct {
	// ID is sent with every attempt: by it a receiver knows a repetition.
	ID      string    `json:"id"`
	Webhook string    `json:"webhook"`
	Event   Event     `json:"event"`
	Created time.Time `json:"created"`
	Tries   int       `json:"tries"`
	NextTry time.Time `json:"nextTry,omitzero"`
	Error   string    `json:"error,omitempty"`
	// Dead: given up after the time that a delivery is tried for.
	Dead bool `json:"dead,omitempty"`
}

// WebhookBody is what a webhook receives.
type WebhookBody struct {
	Delivery string `json:"delivery"`
	Vault    string `json:"vault"`
	Event    Event  `json:"event"`
	// Condition is set when the event is the beginning or the end of one.
	Condition *Condition `json:"condition,omitempty"`
}

// The headers of a webhook's request. Signature is "t=UNIXSECONDS,v1=HEX": HEX is
// the HMAC-SHA256, with the webhook's secret, of "UNIXSECONDS.BODY".
const (
	HeaderDelivery  = "X-Rebound-Delivery"
	HeaderSignature = "X-Rebound-Signature"
	HeaderEvent     = "X-Rebound-Event"
)

// HealthSettings are the limits of conditions that are not a policy's. A 0 in
// an answer means that the condition is turned off.
type HealthSettings struct {
	// TestFailoverDays and VerifyDays: how old the last successful test failover
	// and verification may be. Azure asks for a test every six months.
	TestFailoverDays int64 `json:"testFailoverDays" minimum:"0" maximum:"3650"`
	VerifyDays       int64 `json:"verifyDays" minimum:"0" maximum:"3650"`
	// BackupDays: how old the vault's last backup may be.
	BackupDays int64 `json:"backupDays" minimum:"0" maximum:"3650"`
	// CommitHours: how long a failover may wait for its commit or undo.
	CommitHours int64 `json:"commitHours" minimum:"0" maximum:"8760"`
	// VolumeWarning and VolumeCritical: percent of a volume that must be free.
	VolumeWarning  int64 `json:"volumeWarningPercent" minimum:"0" maximum:"90"`
	VolumeCritical int64 `json:"volumeCriticalPercent" minimum:"0" maximum:"90"`
	// HeartbeatWarning and HeartbeatCritical: seconds of silence of a gateway or an
	// agent.
	HeartbeatWarning  int64 `json:"heartbeatWarningSeconds" minimum:"1" maximum:"86400"`
	HeartbeatCritical int64 `json:"heartbeatCriticalSeconds" minimum:"1" maximum:"86400"`
	// StallWarning and StallCritical: seconds without progress of a synchronisation.
	StallWarning  int64 `json:"stallWarningSeconds" minimum:"1" maximum:"86400"`
	StallCritical int64 `json:"stallCriticalSeconds" minimum:"1" maximum:"86400"`
}

// DefaultHealthSettings are those of a new vault. The 15 minutes of heartbeats and
// stalls and the volumes' 30 and 25 percent are Azure Site Recovery's.
func DefaultHealthSettings() HealthSettings {
	return HealthSettings{
		TestFailoverDays: 182, VerifyDays: 35, BackupDays: 7, CommitHours: 24, VolumeWarning: 30, VolumeCritical: 25,
		HeartbeatWarning: 60, HeartbeatCritical: 900, StallWarning: 300, StallCritical: 900,
	}
}

// WebhookTest is how a test delivery went.
type WebhookTest struct {
	Delivery string `json:"delivery"`
	// Status is the HTTP status of the answer; 0 for none.
	Status  int     `json:"status"`
	Error   string  `json:"error,omitempty"`
	Seconds float64 `json:"seconds"`
}
