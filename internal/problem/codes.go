package problem

import "slices"

// The registered codes. Keep them sorted by subject; a code never changes its
// meaning once released.
const (
	InternalError        Code = "InternalError"
	InvalidRequest       Code = "InvalidRequest"
	UnknownGateway       Code = "UnknownGateway"
	UnknownSite          Code = "UnknownSite"
	UnknownMachine       Code = "UnknownMachine"
	UnknownDisk          Code = "UnknownDisk"
	UnknownItem          Code = "UnknownItem"
	UnknownGroup         Code = "UnknownGroup"
	UnknownCondition     Code = "UnknownCondition"
	UnknownWebhook       Code = "UnknownWebhook"
	UnknownPoint         Code = "UnknownPoint"
	UnknownPolicy        Code = "UnknownPolicy"
	UnknownNetwork       Code = "UnknownNetwork"
	UnknownMapping       Code = "UnknownMapping"
	NetworkNotMapped     Code = "NetworkNotMapped"
	TargetNotPossible    Code = "TargetNotPossible"
	UnknownJob           Code = "UnknownJob"
	NameTaken            Code = "NameTaken"
	InvalidName          Code = "InvalidName"
	MachineHasNoDisks    Code = "MachineHasNoDisks"
	DiskNotSupported     Code = "DiskNotSupported"
	AlreadyProtected     Code = "AlreadyProtected"
	OperationNotAllowed  Code = "OperationNotAllowed"
	OperationRunning     Code = "OperationRunning"
	NoRecoveryPoint      Code = "NoRecoveryPoint"
	PointNotConfirmed    Code = "PointNotConfirmed"
	PointInUse           Code = "PointInUse"
	NoRoom               Code = "NoRoom"
	SpoolFailed          Code = "SpoolFailed"
	GatewayUnreachable   Code = "GatewayUnreachable"
	VaultUnreachable     Code = "VaultUnreachable"
	StaleGeneration      Code = "StaleGeneration"
	StaleLease           Code = "StaleLease"
	WrongVault           Code = "WrongVault"
	NotAuthenticated     Code = "NotAuthenticated"
	PermissionDenied     Code = "PermissionDenied"
	ClockSkew            Code = "ClockSkew"
	AgentNotInstalled    Code = "AgentNotInstalled"
	MachineRunning       Code = "MachineRunning"
	MachineNotRunning    Code = "MachineNotRunning"
	MachineInUse         Code = "MachineInUse"
	HypervisorError      Code = "HypervisorError"
	JournalDamaged       Code = "JournalDamaged"
	JournalInUse         Code = "JournalInUse"
	ProtocolError        Code = "ProtocolError"
	GroupMemberAlone     Code = "GroupMemberAlone"
	CommitNotProven      Code = "CommitNotProven"
	StaleEpoch           Code = "StaleEpoch"
	StreamReplaced       Code = "StreamReplaced"
	IncompatibleVersion  Code = "IncompatibleVersion"
	NotConfirmed         Code = "NotConfirmed"
	CheckFailed          Code = "CheckFailed"
	JobFailed            Code = "JobFailed"
	UnknownPlan          Code = "UnknownPlan"
	InvalidPlan          Code = "InvalidPlan"
	PlanPointNotAllowed  Code = "PlanPointNotAllowed"
	PlanStopped          Code = "PlanStopped"
	ActionFailed         Code = "ActionFailed"
	ActionInterrupted    Code = "ActionInterrupted"
	ActionRefused        Code = "ActionRefused"
	SamePerson           Code = "SamePerson"
	NothingWaits         Code = "NothingWaits"
	GuestNotFrozen       Code = "GuestNotFrozen"
	ConsoleUnavailable   Code = "ConsoleUnavailable"
	WeakPassword         Code = "WeakPassword"
	UnknownUser          Code = "UnknownUser"
	UnknownToken         Code = "UnknownToken"
	LastOwner            Code = "LastOwner"
	TooManyAttempts      Code = "TooManyAttempts"
	CSRFRefused          Code = "CSRFRefused"
	IdempotencyKeyReused Code = "IdempotencyKeyReused"
	RequestInProgress    Code = "RequestInProgress"
	PreconditionFailed   Code = "PreconditionFailed"
	StateUnconfirmed     Code = "StateUnconfirmed"
	BackupDamaged        Code = "BackupDamaged"
)

// registry is filled once, here, and never written again.
var registry = map[Code]Problem{
	StateUnconfirmed:     {Kind: Conflict, Title: "The vault does not know for certain how the group stands", PossibleCauses: []string{"The vault was restored from a backup, and the group's gateways have not reported since", "A gateway knows a newer generation than the vault"}, RecommendedAction: "Let the group's gateways connect: the vault learns the state from them by itself. If one is lost, run 'rebound vault adopt --partial'."},
	BackupDamaged:        {Kind: Invalid, Title: "The backup cannot be used", PossibleCauses: []string{"The file is damaged or cut short", "The passphrase is wrong", "It was made by a newer program"}, RecommendedAction: "Use another backup; nothing was changed. Without one, start a new vault and run 'rebound vault adopt'."},
	InternalError:        {Kind: Internal, Title: "Rebound met an error that it has no better name for", PossibleCauses: []string{"A defect in Rebound", "A failing disk or network below it"}, RecommendedAction: "Look at the job's log and the gateway's log; retry the job; report the error with a support bundle."},
	InvalidRequest:       {Kind: Invalid, Title: "The request is not valid", RecommendedAction: "Correct the named field and send the request again; nothing was changed."},
	UnknownGateway:       {Kind: NotFound, Title: "There is no such gateway", RecommendedAction: "List the gateways with 'rebound gateway list'."},
	UnknownSite:          {Kind: NotFound, Title: "There is no such site", RecommendedAction: "List the sites with 'rebound site list', or create it with 'rebound site create'."},
	UnknownMachine:       {Kind: NotFound, Title: "There is no such machine", PossibleCauses: []string{"The name is mistyped", "The machine has not been imported"}, RecommendedAction: "List the machines with 'rebound machine list', or import it with 'rebound machine import --qmp SOCKET'."},
	UnknownDisk:          {Kind: NotFound, Title: "There is no such disk", RecommendedAction: "Look at the machine's disks with 'rebound machine show'."},
	UnknownItem:          {Kind: NotFound, Title: "There is no such replicated item", RecommendedAction: "List the items with 'rebound item list'."},
	UnknownCondition:     {Kind: NotFound, Title: "There is no such open condition", PossibleCauses: []string{"It has cleared by itself"}, RecommendedAction: "List what is open with 'rebound health'."},
	UnknownWebhook:       {Kind: NotFound, Title: "There is no such webhook", RecommendedAction: "List the webhooks with 'rebound webhook list'."},
	UnknownGroup:         {Kind: NotFound, Title: "There is no such replication group", RecommendedAction: "List the groups with 'rebound group list'."},
	UnknownPoint:         {Kind: NotFound, Title: "There is no such recovery point", PossibleCauses: []string{"The point was removed by retention or by a commit", "The moment lies before the first or after the last point, or inside a gap"}, RecommendedAction: "List the points with 'rebound point list'."},
	UnknownPolicy:        {Kind: NotFound, Title: "There is no such policy", RecommendedAction: "List the policies with 'rebound policy list'."},
	UnknownNetwork:       {Kind: NotFound, Title: "The site has no such network", RecommendedAction: "Look at the site's networks with 'rebound site show'."},
	UnknownMapping:       {Kind: NotFound, Title: "There is no such network mapping", RecommendedAction: "List the mappings with 'rebound mapping list'."},
	NetworkNotMapped:     {Kind: Conflict, Title: "Nothing says to which network a card is to be connected", PossibleCauses: []string{"The other site has no network of the name, and no mapping names one"}, RecommendedAction: "Make one with 'rebound mapping create', name the card's network with 'rebound item settings', or let the policy isolate such cards."},
	TargetNotPossible:    {Kind: Conflict, Title: "The site cannot run the machine as its target settings say", PossibleCauses: []string{"More processors or memory than the site has", "The name is taken by another machine there"}, RecommendedAction: "Change the settings with 'rebound item settings'; the detail names the field."},
	UnknownJob:           {Kind: NotFound, Title: "There is no such job", RecommendedAction: "List the jobs with 'rebound job list'."},
	NameTaken:            {Kind: Conflict, Title: "The name is taken", RecommendedAction: "Choose another name, or remove what holds it."},
	InvalidName:          {Kind: Invalid, Title: "The name cannot be used", RecommendedAction: "Use 1 to 63 letters, digits and hyphens, beginning and ending with a letter or digit."},
	MachineHasNoDisks:    {Kind: Invalid, Title: "The machine has no disk that can be replicated", PossibleCauses: []string{"It has no disks", "All its disks are read-only or CD-ROMs"}, RecommendedAction: "Give the machine a writable disk, then protect it again."},
	DiskNotSupported:     {Kind: Invalid, Title: "A disk cannot be replicated", PossibleCauses: []string{"Its size is no multiple of 512 bytes", "It is shared with another machine", "Another block job works on it"}, RecommendedAction: "See the detail; mend the disk or exclude it."},
	AlreadyProtected:     {Kind: Conflict, Title: "The machine is protected already", RecommendedAction: "Look at it with 'rebound item show'."},
	OperationNotAllowed:  {Kind: Conflict, Title: "The operation is not allowed in the present state", RecommendedAction: "See the remedy in the detail; 'rebound item show' lists what is allowed now."},
	OperationRunning:     {Kind: Conflict, Title: "Another operation is running", RecommendedAction: "Wait for the named job, or cancel it."},
	NoRecoveryPoint:      {Kind: Conflict, Title: "There is no recovery point to use", PossibleCauses: []string{"The first synchronisation has not ended", "No point of the kind asked for was made"}, RecommendedAction: "Wait for the first point, or choose another kind of point."},
	PointNotConfirmed:    {Kind: Conflict, Title: "The position is not confirmed", PossibleCauses: []string{"It lies after the newest beacon, after a break, or inside a synchronisation"}, RecommendedAction: "Choose the newest confirmed point; 'latest' does."},
	PointInUse:           {Kind: Conflict, Title: "The point is in use", RecommendedAction: "End the test failover or the failover that runs on it."},
	SpoolFailed:          {Kind: Internal, Title: "The spool's volume failed", RecommendedAction: "Look at the volume of the gateway's spool. Replication goes on by bitmap; the history of the time in between is lost."},
	NoRoom:               {Kind: Exhausted, Title: "There is not enough room", RecommendedAction: "Free room on the named volume or choose another one, then retry."},
	GatewayUnreachable:   {Kind: Unavailable, Title: "The gateway cannot be reached", PossibleCauses: []string{"It is not running", "Its link to the vault is down"}, RecommendedAction: "Start the gateway or mend its network, then retry the job.", Transient: true},
	VaultUnreachable:     {Kind: Unavailable, Title: "The vault cannot be reached", RecommendedAction: "Check the address and that 'rebound vault serve' is running.", Transient: true},
	StaleGeneration:      {Kind: Conflict, Title: "The generation is out of date", PossibleCauses: []string{"The group was failed over while this site was away"}, RecommendedAction: "Nothing by hand: the stale machine is powered off; reprotect to make this site the standby."},
	StaleLease:           {Kind: Conflict, Title: "The command comes from a vault process that lost its lease", RecommendedAction: "Nothing by hand: the present vault process carries on."},
	WrongVault:           {Kind: NotAllowed, Title: "The certificate belongs to another vault", RecommendedAction: "Enrol this gateway or agent with the present vault."},
	NotAuthenticated:     {Kind: NotAllowed, Title: "The caller is not known", RecommendedAction: "Log in with 'rebound login' or pass a valid token."},
	PermissionDenied:     {Kind: NotAllowed, Title: "The caller may not do this", RecommendedAction: "Ask an owner of the vault for the role."},
	ClockSkew:            {Kind: Conflict, Title: "The clocks differ too much", RecommendedAction: "Set the clock of the named machine, then retry."},
	AgentNotInstalled:    {Kind: Conflict, Title: "The agent has not registered since the machine started", PossibleCauses: []string{"The machine started only now: registration can take up to 15 minutes", "The agent is not installed or cannot reach the vault"}, RecommendedAction: "Wait a few minutes and run the operation again.", Transient: true},
	MachineRunning:       {Kind: Conflict, Title: "The machine is running", RecommendedAction: "Stop it first."},
	MachineNotRunning:    {Kind: Conflict, Title: "The machine is not running", RecommendedAction: "Start it first."},
	MachineInUse:         {Kind: Conflict, Title: "The machine's disks are in use", PossibleCauses: []string{"It is the standby of a replication group", "Another process has its disks open"}, RecommendedAction: "Fail the group over instead of starting the machine by hand."},
	HypervisorError:      {Kind: Unavailable, Title: "The hypervisor refused or failed", RecommendedAction: "See the detail and the machine's log at its site."},
	JournalDamaged:       {Kind: Internal, Title: "The journal is damaged", PossibleCauses: []string{"Bit rot or a failing disk"}, RecommendedAction: "Run 'rebound journal verify' to see which points are hit; use another point; repair by resynchronisation."},
	JournalInUse:         {Kind: Conflict, Title: "The journal is owned by another process or by a machine", RecommendedAction: "Stop the other owner, or use a read-only command."},
	ProtocolError:        {Kind: Internal, Title: "The peer broke the protocol", PossibleCauses: []string{"Versions that do not fit", "A damaged connection"}, RecommendedAction: "Check both ends' versions with 'rebound version'."},
	GroupMemberAlone:     {Kind: Conflict, Title: "A member of a replication group cannot be failed over alone", RecommendedAction: "Run the operation on the group."},
	CommitNotProven:      {Kind: Conflict, Title: "Commit refused: the surviving machine is not proven to run", RecommendedAction: "Check that the machine has booted and the other one is off, then commit again."},
	StaleEpoch:           {Kind: Conflict, Title: "A newer sequencer has taken over the group's stream", PossibleCauses: []string{"The capture was restarted while the old one still ran"}, RecommendedAction: "Nothing by hand: the older capture ends, the newer one carries on."},
	StreamReplaced:       {Kind: Conflict, Title: "A newer connection has taken over the group's stream", PossibleCauses: []string{"The capture was restarted while the old one still ran"}, RecommendedAction: "Nothing by hand: the newer connection carries on."},
	IncompatibleVersion:  {Kind: Conflict, Title: "The two ends share no version of the protocol", PossibleCauses: []string{"One gateway is much older than the other"}, RecommendedAction: "Compare 'rebound version' at both ends and upgrade the older one."},
	NotConfirmed:         {Kind: Invalid, Title: "Nothing was done: the operation was not confirmed", PossibleCauses: []string{"The command loses or deletes something and there is no terminal to ask at", "What was typed is not the name"}, RecommendedAction: "Look at what it would do, then type the name; on the command line, --dry-run shows it and --yes confirms it."},
	CheckFailed:          {Kind: Conflict, Title: "Something would fail later", RecommendedAction: "Mend what the check lists as failed, then run 'rebound check' again."},
	UnknownPlan:          {Kind: NotFound, Title: "There is no such recovery plan", RecommendedAction: "See 'rebound plan list'."},
	InvalidPlan:          {Kind: Invalid, Title: "The recovery plan is not valid", RecommendedAction: "Correct the named part of the plan; nothing was changed."},
	PlanPointNotAllowed:  {Kind: Invalid, Title: "A plan takes no such recovery point", PossibleCauses: []string{"A single point belongs to one replication group and means nothing to the others"}, RecommendedAction: "Use latest, latest-processed, latest-app, latest-multi-vm or latest-multi-vm-app; after the failover change the point of single items or groups with 'rebound change-point'."},
	PlanStopped:          {Kind: Conflict, Title: "The recovery plan ended before it came to this step", PossibleCauses: []string{"An action failed whose policy is to stop", "A person rejected a step or cancelled the plan"}, RecommendedAction: "Restart (or resume) the plan's job; it goes on with what is missing. Or undo what was failed over."},
	ActionFailed:         {Kind: Conflict, Title: "An action of the recovery plan failed", RecommendedAction: "Look at its output in the job, mend what it asks for, then restart the job; what was done is not repeated."},
	ActionInterrupted:    {Kind: Conflict, Title: "An action was cut short, and nobody knows how far it came", PossibleCauses: []string{"The process that ran it died in the middle"}, RecommendedAction: "Look at what it did. Then 'rebound job resume JOB' takes it as done, 'rebound job resume JOB --again' runs it once more, 'rebound job reject JOB' takes it as failed."},
	ActionRefused:        {Kind: NotAllowed, Title: "The gateway does not run this action", PossibleCauses: []string{"The gateway was started with --scripts=none or --scripts=folder", "The file is not there or is not executable"}, RecommendedAction: "Put the script into the gateway's folder of scripts, or let the gateway's administrator allow scripts."},
	SamePerson:           {Kind: NotAllowed, Title: "An approval needs another person", PossibleCauses: []string{"The one who started the plan may not approve its steps"}, RecommendedAction: "Let somebody else approve it: 'rebound job approve JOB'."},
	NothingWaits:         {Kind: Conflict, Title: "The job does not wait for this answer", PossibleCauses: []string{"Somebody else has answered", "The job has gone on or has ended"}, RecommendedAction: "Look at the job: 'rebound job show JOB'."},
	JobFailed:            {Kind: Internal, Title: "The job did not succeed", RecommendedAction: "Look at its tasks with 'rebound job show', mend the cause, then 'rebound job restart'."},
	GuestNotFrozen:       {Kind: Unavailable, Title: "The guest's file systems could not be frozen for an application-consistent point", PossibleCauses: []string{"The QEMU guest agent is not installed or not running in the guest", "A hook script in the guest failed or took too long", "The guest thawed by itself before the point was made (Windows does so after about 10 s)"}, RecommendedAction: "Start the guest agent (qemu-guest-agent) in the guest and look at its log and at the hooks' output, then make the point again; crash-consistent points go on being made meanwhile."},
	ConsoleUnavailable:   {Kind: Conflict, Title: "The machine's console cannot be shown", PossibleCauses: []string{"The machine has neither a display device nor a serial console that the site keeps", "It was imported before it had one, or the site's driver shows no consoles"}, RecommendedAction: "Give the machine a display device and import it again; look at it with the hypervisor's own tools meanwhile."},
	WeakPassword:         {Kind: Invalid, Title: "The password is too easy to guess", RecommendedAction: "Choose one of at least 12 characters that is not the user's name; several words are easy to remember."},
	UnknownUser:          {Kind: NotFound, Title: "There is no such user", RecommendedAction: "List the users with 'rebound user list'."},
	UnknownToken:         {Kind: NotFound, Title: "There is no such token", RecommendedAction: "List the tokens with 'rebound token list'."},
	LastOwner:            {Kind: Conflict, Title: "Nobody would be left who may decide who may do what", RecommendedAction: "Make another user an owner first."},
	TooManyAttempts:      {Kind: NotAllowed, Title: "Too many attempts have failed", PossibleCauses: []string{"A wrong password or passphrase was tried again and again, from this address or for this name"}, RecommendedAction: "Wait as long as the Retry-After header says, then try again.", Transient: true},
	CSRFRefused:          {Kind: NotAllowed, Title: "The request does not prove that it comes from the portal", PossibleCauses: []string{"The header X-CSRF-Token is missing or from another session", "Another web page sent the request"}, RecommendedAction: "Load the page again; programs use a token instead of the cookie."},
	IdempotencyKeyReused: {Kind: Conflict, Title: "The idempotency key was used for another request", RecommendedAction: "Send a new key with each new request; repeat a key only with the same method, address and body."},
	RequestInProgress:    {Kind: Conflict, Title: "The same request is being worked on", RecommendedAction: "Send it again, with the same idempotency key, in a moment.", Transient: true},
	PreconditionFailed:   {Kind: Conflict, Title: "The object has changed since it was read", PossibleCauses: []string{"Somebody else changed it in the meantime", "It is there although it should not be, or the other way round"}, RecommendedAction: "Read it again, look at what changed, and send the change with the new ETag."},
}

// registered finds the problem of a code.
func registered(code Code) (Problem, bool) {
	if p, ok := registry[code]; ok {
		return p, true
	}
	if p, ok := journalCodes[code]; ok {
		return p, true
	}
	p, ok := prerequisites[code]
	return p, ok
}

// All returns every registered problem, sorted by code.
func All() []Problem {
	all := make([]Problem, 0, len(registry)+len(prerequisites)+len(journalCodes))
	for _, problems := range []map[Code]Problem{registry, prerequisites, journalCodes} {
		for code, p := range problems {
			p.Code = code
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b Problem) int {
		if a.Code < b.Code {
			return -1
		}
		return 1
	})
	return all
}
