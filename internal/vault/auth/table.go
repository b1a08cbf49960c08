package auth

import (
	"maps"

	"rebound/internal/lifecycle"
)

// Role is what a caller may do. The four are those of Azure's site recovery
// (reader, operator, contributor) and an owner for everything else.
type Role string

// The roles, each with all that the ones before it may do.
const (
	// Reader sees everything but who may do what.
	Reader Role = "reader"
	// Operator also runs failovers, failbacks, tests, commits and
	// reprotects; it cannot protect, disable, or change settings.
	Operator Role = "operator"
	// Contributor also protects and disables, and changes settings.
	Contributor Role = "contributor"
	// Owner also enrols gateways and agents, and decides who may do what.
	Owner Role = "owner"
)

// Roles lists the roles, the least first.
func Roles() []Role { return []Role{Reader, Operator, Contributor, Owner} }

// rank is 0 for what is no role.
func (r Role) rank() int {
	for i, known := range Roles() {
		if r == known {
			return i + 1
		}
	}
	return 0
}

// Known reports whether r is one of the roles.
func (r Role) Known() bool { return r.rank() > 0 }

// Allows reports whether a caller with role r may do what needs the role need.
// What is no role allows nothing and is allowed to nobody.
func (r Role) Allows(need Role) bool { return need.Known() && r.rank() >= need.rank() }

// Least returns the lesser of two roles; of a token and its user, for example.
func Least(a, b Role) Role {
	if a.rank() < b.rank() {
		return a
	}
	return b
}

// Need says who may call an operation of the REST API.
type Need struct {
	// Role is the least role; empty with Public.
	Role Role
	// Public operations ask for no caller: what they do, they check
	// themselves (a log-in).
	Public bool
	// PerOperation: Role is only the least that any of the operations in
	// the path needs; OperationRole says what the one that is asked for
	// needs.
	PerOperation bool
	// OwnOnly: below Owner only on what belongs to the caller (his tokens,
	// his password).
	OwnOnly bool
}

// Routes is the one table of who may call what: a row for each operation id of
// the REST API. The server refuses to start with a route that has no row here.
func Routes() map[string]Need {
	all := map[string]Need{}
	for _, part := range []map[string]Need{siteRoutes(), healthRoutes(), settingRoutes(), itemRoutes(), accessRoutes()} {
		maps.Copy(all, part)
	}
	return all
}

func siteRoutes() map[string]Need {
	return map[string]Need{
		"status":       {Role: Reader},
		"list-events":  {Role: Reader},
		"watch-events": {Role: Reader},

		"list-sites":  {Role: Reader},
		"show-site":   {Role: Reader},
		"create-site": {Role: Contributor},
		"delete-site": {Role: Contributor},

		"list-gateways": {Role: Reader},
		"show-gateway":  {Role: Reader},
		// It opens connections, and so is no mere look.
		"gateway-prerequisites": {Role: Operator},
		"enroll-gateway":        {Role: Owner},
		"revoke-gateway":        {Role: Owner},
		"enroll-agent":          {Role: Owner},
		"revoke-agent":          {Role: Owner},
		"adopt":                 {Role: Owner},

		"list-machines":    {Role: Reader},
		"show-machine":     {Role: Reader},
		"start-machine":    {Role: Operator},
		"stop-machine":     {Role: Operator},
		"import-machine":   {Role: Contributor},
		"protect-machines": {Role: Contributor},
	}
}

func healthRoutes() map[string]Need {
	return map[string]Need{
		"show-health":            {Role: Reader},
		"list-conditions":        {Role: Reader},
		"list-condition-history": {Role: Reader},
		"show-health-settings":   {Role: Reader},
		"put-health-settings":    {Role: Contributor},
		"acknowledge-condition":  {Role: Operator},
		"mute-condition":         {Role: Operator},
		"unmute-condition":       {Role: Operator},
		"metrics":                {Role: Reader},
		"support-bundle":         {Role: Owner},

		"list-webhooks":   {Role: Contributor},
		"show-webhook":    {Role: Contributor},
		"create-webhook":  {Role: Contributor},
		"update-webhook":  {Role: Contributor},
		"delete-webhook":  {Role: Contributor},
		"test-webhook":    {Role: Contributor},
		"retry-webhook":   {Role: Contributor},
		"list-deliveries": {Role: Contributor},
	}
}

func settingRoutes() map[string]Need {
	return map[string]Need{
		"list-policies": {Role: Reader},
		"show-policy":   {Role: Reader},
		"put-policy":    {Role: Contributor},
		"delete-policy": {Role: Contributor},

		"update-site":        {Role: Contributor},
		"validate-site":      {Role: Contributor},
		"update-group":       {Role: Contributor},
		"list-mappings":      {Role: Reader},
		"show-mapping":       {Role: Reader},
		"put-mapping":        {Role: Contributor},
		"delete-mapping":     {Role: Contributor},
		"show-item-settings": {Role: Reader},
		"put-item-settings":  {Role: Contributor},
	}
}

func itemRoutes() map[string]Need {
	return map[string]Need{
		"list-items":   {Role: Reader},
		"show-item":    {Role: Reader},
		"item-rpo":     {Role: Reader},
		"item-points":  {Role: Reader},
		"item-choices": {Role: Reader},
		"item-resolve": {Role: Reader},
		// A console may show secrets.
		"item-console":  {Role: Operator},
		"operate-item":  {Role: Operator, PerOperation: true},
		"list-groups":   {Role: Reader},
		"show-group":    {Role: Reader},
		"group-rpo":     {Role: Reader},
		"group-points":  {Role: Reader},
		"group-choices": {Role: Reader},
		"group-resolve": {Role: Reader},
		"operate-group": {Role: Operator, PerOperation: true},

		"list-plans":     {Role: Reader},
		"show-plan":      {Role: Reader},
		"list-plan-runs": {Role: Reader},
		"plan-report":    {Role: Reader},
		"create-plan":    {Role: Contributor},
		"put-plan":       {Role: Contributor},
		"delete-plan":    {Role: Contributor},
		"operate-plan":   {Role: Operator, PerOperation: true},

		"list-jobs":  {Role: Reader},
		"show-job":   {Role: Reader},
		"act-on-job": {Role: Operator, PerOperation: true},
	}
}

func accessRoutes() map[string]Need {
	return map[string]Need{
		"create-session": {Public: true},
		"show-session":   {Role: Reader},
		"delete-session": {Role: Reader},

		"list-users":      {Role: Owner},
		"show-user":       {Role: Reader, OwnOnly: true},
		"create-user":     {Role: Owner},
		"update-user":     {Role: Owner},
		"delete-user":     {Role: Owner},
		"change-password": {Role: Reader, OwnOnly: true},
		"list-tokens":     {Role: Reader, OwnOnly: true},
		"show-token":      {Role: Reader, OwnOnly: true},
		"create-token":    {Role: Reader, OwnOnly: true},
		"update-token":    {Role: Reader, OwnOnly: true},
		"delete-token":    {Role: Reader, OwnOnly: true},
		"list-audit":      {Role: Owner},
		"verify-audit":    {Role: Owner},
	}
}

// Operations is the least role for each operation of the life cycle. Azure's
// operator "may fail over, fail back and reprotect, not enable or disable
// replication".
func Operations() map[lifecycle.Operation]Role {
	return map[lifecycle.Operation]Role{
		lifecycle.Protect:           Contributor,
		lifecycle.Disable:           Contributor,
		lifecycle.CompleteMigration: Contributor, // it ends the protection
		lifecycle.Failover:          Operator,
		lifecycle.Failback:          Operator,
		lifecycle.ChangePoint:       Operator,
		lifecycle.Commit:            Operator,
		lifecycle.Undo:              Operator,
		lifecycle.Reprotect:         Operator,
		lifecycle.TestFailover:      Operator,
		lifecycle.TestCleanup:       Operator,
		lifecycle.Pause:             Operator,
		lifecycle.Resume:            Operator,
		lifecycle.Resync:            Operator,
		lifecycle.Verify:            Operator,
		lifecycle.CreatePoint:       Operator,
	}
}

// OperationRole is the least role for an operation; one that the table lacks
// is an owner's.
func OperationRole(op lifecycle.Operation) Role {
	if r, ok := Operations()[op]; ok {
		return r
	}
	return Owner
}

// Door says who may use an address that is no operation of the REST API.
type Door string

// The doors.
const (
	// OpenDoor asks for nobody; what is behind it is no secret.
	OpenDoor Door = "open"
	// PassphraseDoor is opened by a one-time passphrase.
	PassphraseDoor Door = "passphrase"
	// GatewayDoor and AgentDoor are opened by a certificate of this vault
	// that is in force.
	GatewayDoor Door = "gateway"
	AgentDoor   Door = "agent"
	// CertificateDoor is opened by either of them.
	CertificateDoor Door = "certificate"
)

// Doors is the rest of the table: every address beside the REST API, with its
// method. The server refuses to start with one that has no row here.
func Doors() map[string]Door {
	return map[string]Door{
		"GET /control/v1/connect":   GatewayDoor,
		"POST /control/v1/report":   GatewayDoor,
		"POST /control/v1/enroll":   PassphraseDoor,
		"POST /control/v1/renew":    CertificateDoor,
		"POST /agent/v1/register":   AgentDoor,
		"POST /agent/v1/heartbeat":  AgentDoor,
		"/":                         OpenDoor, // answers that there is nothing
		"GET /api/v1/openapi.json":  OpenDoor,
		"GET /api/v1/openapi.yaml":  OpenDoor,
		"GET /api/v1/schemas/{any}": OpenDoor,
	}
}
