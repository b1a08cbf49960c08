package problem

// What a reprotect or a failback lacks.
const (
	NoProcessServer    Code = "NoProcessServer"
	NoMasterTarget     Code = "NoMasterTarget"
	WrongGateway       Code = "WrongGateway"
	MixedMasterTargets Code = "MixedMasterTargets"
	PathClosed         Code = "PathClosed"
	SiteUnreachable    Code = "SiteUnreachable"
	MasterTargetFull   Code = "MasterTargetFull"
	RetentionUnusable  Code = "RetentionUnusable"
	DatastoreUnusable  Code = "DatastoreUnusable"
	SnapshotsPresent   Code = "SnapshotsPresent"
	CannotComeHome     Code = "CannotComeHome"
	IdentityClash      Code = "IdentityClash"
)

// prerequisites are the problems of these codes.
var prerequisites = map[Code]Problem{
	NoProcessServer:    {Kind: Conflict, Title: "The site where the machines run has no gateway that can send", PossibleCauses: []string{"No gateway of the site has the role process-server", "Its gateways have not enrolled"}, RecommendedAction: "Start a gateway with the role process-server at the named site, then reprotect again."},
	NoMasterTarget:     {Kind: Conflict, Title: "The site that is to keep the journal has no gateway that can", PossibleCauses: []string{"No gateway of the site has the role master-target", "Its gateways have not enrolled"}, RecommendedAction: "Start a gateway with the role master-target at the named site, then reprotect again."},
	WrongGateway:       {Kind: Conflict, Title: "The gateway cannot take this part", PossibleCauses: []string{"It is of another site", "It lacks the role", "It does not see the machines"}, RecommendedAction: "Choose a gateway of the named site with the named role; 'rebound gateway list' shows them."},
	MixedMasterTargets: {Kind: Conflict, Title: "The members of a group must share one master target", PossibleCauses: []string{"The request gives machines of one group different gateways or retention volumes"}, RecommendedAction: "Give all machines of the group the same gateways and the same retention volume; only datastores may differ."},
	PathClosed:         {Kind: Unavailable, Title: "The data port cannot be used from the other gateway", PossibleCauses: []string{"No route, a firewall, or a closed port between the two sites", "The address that the gateway tells others is wrong", "The gateway's certificate is not of this vault or was revoked"}, RecommendedAction: "Open the named port from the one gateway to the other, then reprotect again.", Transient: true},
	SiteUnreachable:    {Kind: Unavailable, Title: "The gateway does not reach its site", PossibleCauses: []string{"The hypervisor's service does not answer", "The site's credentials are not valid any more", "The datastore is not mounted"}, RecommendedAction: "Mend the connection of the gateway to its site, then run the operation again.", Transient: true},
	MasterTargetFull:   {Kind: Exhausted, Title: "The master target has no room for as many disks", RecommendedAction: "Choose another master target, or disable what it keeps and nobody needs."},
	RetentionUnusable:  {Kind: Conflict, Title: "The retention volume cannot keep a journal", PossibleCauses: []string{"It does not exist or is not mounted", "It is read-only", "It is a FAT file system or lives in memory", "It is the volume of the gateway's own state"}, RecommendedAction: "Choose another volume; 'rebound gateway prerequisites' shows them with their troubles."},
	DatastoreUnusable:  {Kind: Conflict, Title: "The datastore cannot take the machine's disks", PossibleCauses: []string{"The gateway may only read it", "There is none of the name", "It is too small"}, RecommendedAction: "Give the gateway the right to write to it, or choose another; 'rebound gateway prerequisites' lists those that can be used."},
	SnapshotsPresent:   {Kind: Conflict, Title: "Disks of the machine at the target have snapshots", RecommendedAction: "Delete the named snapshots (or copy what they hold), then reprotect again."},
	CannotComeHome:     {Kind: Conflict, Title: "The machine at the target cannot take its disks back", PossibleCauses: []string{"It was imported with disks that are no raw files", "Its disk files are gone"}, RecommendedAction: "Convert the named disks to raw and import the machine again, or delete it at the target: then it is made anew."},
	IdentityClash:      {Kind: Conflict, Title: "Another machine at the target has the same identity", PossibleCauses: []string{"It was cloned from the same template"}, RecommendedAction: "Give the other machine a UUID and serial numbers of its own, or remove it, then reprotect again."},
}
