package rest

import "time"

// User is a person who may log in.
type User struct {
	Name string `json:"name"`
	Role string `json:"role" enum:"reader,operator,contributor,owner"`
	// Disabled users cannot log in; their sessions and tokens do not work.
	Disabled        bool      `json:"disabled"`
	Created         time.Time `json:"created"`
	PasswordChanged time.Time `json:"passwordChanged"`
	LastLogin       time.Time `json:"lastLogin,omitzero"`
}

// NewUser makes a user.
type NewUser struct {
	Name     string `json:"name" minLength:"1" maxLength:"63" doc:"1 to 63 letters, digits and hyphens"`
	Role     string `json:"role" enum:"reader,operator,contributor,owner"`
	Password string `json:"password" maxLength:"1024" doc:"at least 12 characters"`
}

// UserChange changes what is set.
type UserChange struct {
	Role     *string `json:"role,omitempty" enum:"reader,operator,contributor,owner"`
	Disabled *bool   `json:"disabled,omitempty"`
}

// PasswordChange sets a user's password. It ends the user's sessions, but for
// the one that asks.
type PasswordChange struct {
	// Current is needed of users who change their own password.
	Current string `json:"current,omitempty" maxLength:"1024"`
	New     string `json:"new" maxLength:"1024" doc:"at least 12 characters"`
}

// Login opens a session.
type Login struct {
	Name     string `json:"name" maxLength:"63"`
	Password string `json:"password" maxLength:"1024"`
}

// The cookie that carries a session's secret, and the header that must repeat
// Session.CSRF in every request with the cookie that changes something.
const (
	SessionCookie = "__Host-rebound-session"
	CSRFHeader    = "X-CSRF-Token"
)

// CLIAgent begins the User-Agent of the command line.
const CLIAgent = "rebound-cli"

// Session says who the caller is and how long that lasts.
type Session struct {
	// ID of the session, or of the token that was used instead of one.
	ID string `json:"id"`
	// Who is the user's name, or the service token's.
	Who string `json:"who"`
	// User is empty for service tokens.
	User string `json:"user,omitempty"`
	Role string `json:"role" enum:"reader,operator,contributor,owner"`
	// Channel is portal, cli or token: how the audit log marks what is done.
	Channel string    `json:"channel" enum:"portal,cli,token"`
	Created time.Time `json:"created"`
	// IdleEnds is when the session ends if nothing more is asked; Expires
	// when it ends in any case.
	IdleEnds time.Time `json:"idleEnds,omitzero"`
	Expires  time.Time `json:"expires,omitzero"`
	// CSRF is what the header X-CSRF-Token must say; of sessions only.
	CSRF string `json:"csrf,omitempty"`
}

// Token is an API token without its secret.
type Token struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// User is whose token it is: it may do no more than the user may. Empty
	// for a service token, which stands for itself.
	User    string    `json:"user,omitempty"`
	Role    string    `json:"role" enum:"reader,operator,contributor,owner"`
	Created time.Time `json:"created"`
	By      string    `json:"by,omitempty" doc:"who made it"`
	Expires time.Time `json:"expires,omitzero"`
	// LastUsed is exact to a minute.
	LastUsed time.Time `json:"lastUsed,omitzero"`
}

// NewToken makes a token.
type NewToken struct {
	Name string `json:"name" minLength:"1" maxLength:"63"`
	Role string `json:"role" enum:"reader,operator,contributor,owner"`
	// Days until it expires; 0 never.
	Days int `json:"days,omitempty" minimum:"0" maximum:"36500"`
	// User whose token it is to be. Users make tokens for themselves;
	// owners for anybody, and service tokens (no user).
	User string `json:"user,omitempty" maxLength:"63"`
}

// TokenChange changes what is set.
type TokenChange struct {
	Name *string `json:"name,omitempty" minLength:"1" maxLength:"63"`
	Role *string `json:"role,omitempty" enum:"reader,operator,contributor,owner"`
	// Days from now until it expires; 0 never.
	Days *int `json:"days,omitempty" minimum:"0" maximum:"36500"`
}

// TokenSecret is the answer to NewToken; Secret is shown once.
type TokenSecret struct {
	Token
	Secret string `json:"secret"`
}

// AuditRow is who did what from where, and what came of it.
type AuditRow struct {
	Seq  int64     `json:"seq"`
	Time time.Time `json:"time"`
	// Who is a user's or a service token's name, "gateway NAME", "agent
	// NAME", or empty when nobody known asked.
	Who  string `json:"who"`
	Role string `json:"role,omitempty"`
	// Channel is portal (a session's cookie), cli (the command line), token
	// (any other program) or, for those with certificates, control.
	Channel string `json:"channel,omitempty" enum:"portal,cli,token,control"`
	// Credential is the id of the session or token that was used.
	Credential string `json:"credential,omitempty"`
	// From is the caller's address.
	From    string `json:"from"`
	Request string `json:"request,omitempty" doc:"the request's id, as in its X-Request-Id"`
	Method  string `json:"method"`
	Path    string `json:"path"`
	// Operation is the id of the operation in the API's description; for an
	// operation of the life cycle, its name.
	Operation string `json:"operation,omitempty"`
	// Object is what it was done to, such as "group/app".
	Object string `json:"object,omitempty"`
	DryRun bool   `json:"dryRun,omitempty"`
	// Outcome is done, refused (by rule or by state: nothing was changed),
	// failed, or replayed (an earlier answer was given again).
	Outcome string `json:"outcome,omitempty" enum:"done,refused,failed,replayed"`
	Status  int    `json:"status"`
	// Code is the problem's code when it was refused or failed.
	Code string `json:"code,omitempty"`
	// Job that was started.
	Job string `json:"job,omitempty"`
	// Repeated counts like attempts from the same address that were refused
	// before this one and have no row of their own.
	Repeated int `json:"repeated,omitempty"`
	// Hash covers this row and the Hash of the one before it (hex SHA-256).
	Hash string `json:"hash,omitempty"`
}

// AuditCheck is what the check of the audit log's chain found.
type AuditCheck struct {
	// Intact: every row is as it was written, and none is missing.
	Intact bool  `json:"intact"`
	Rows   int64 `json:"rows"`
	// Unchained counts rows from before the log had a chain, at its beginning.
	Unchained int64 `json:"unchained,omitempty"`
	// Seq and Hash are the newest row's: kept elsewhere, they prove later
	// that nothing up to here was changed or cut off.
	Seq  int64  `json:"seq"`
	Hash string `json:"hash"`
	// BrokenAt is the first row that does not fit, Problem says why.
	BrokenAt int64  `json:"brokenAt,omitempty"`
	Problem  string `json:"problem,omitempty"`
}
