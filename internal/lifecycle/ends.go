package lifecycle

import (
	"fmt"
	"strings"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// Ends are the two gateways that an operation goes through and what they said.
// Guards of what only a gateway can know let pass what was not asked yet.
type Ends struct {
	ProcessServer, MasterTarget End
	// Mixed names what members of the group were given differently that
	// they must share.
	Mixed []string
	// Disks is how many disks the group has.
	Disks int
	// Volume is the retention volume asked for, Datastores where disks are
	// to be made; a member that is not named gets the default.
	Volume     string
	Datastores map[dr.MachineName]string
	// Sizes are the bytes of each member's disks.
	Sizes map[dr.MachineName]int64
	// PathTrouble says why the process server does not reach the master
	// target; it names both.
	PathTrouble string
}

// End is one gateway of two.
type End struct {
	// Gateway is empty when the site has none for the part.
	Gateway dr.GatewayID
	// At is the gateway's site, Want the one where it has to be.
	At, Want dr.SiteID
	// HasRole: the gateway was given the part.
	HasRole bool
	// Said is what it answered; nil when it was not asked.
	Said *Said
}

// Said is what a gateway found when it was asked.
type Said struct {
	SiteProblem           string
	DisksInUse, DiskLimit int
	Volumes               []Volume
	Datastores            []site.Datastore
	Machines              []site.Finding
}

// Volume is a place for journals; Trouble says why it is none.
type Volume struct {
	Name, Trouble string
	FreeBytes     int64
}

// JournalReserve is what a journal needs on its volume to begin with: two
// batches of folding, the manifest, and some redo. Bytes.
const JournalReserve = 1 << 30

// DefaultPlace is the name of the volume and of the datastore that are meant
// when none is named.
const DefaultPlace = site.DefaultDatastore

// The guards of Ends.
const (
	OneMasterTarget   GuardName = "OneMasterTarget"
	ProcessServerFits GuardName = "ProcessServerFits"
	MasterTargetFits  GuardName = "MasterTargetFits"
	SiteAnswers       GuardName = "SiteAnswers"
	DisksFit          GuardName = "DisksFit"
	RetentionFits     GuardName = "RetentionFits"
	DatastoreFits     GuardName = "DatastoreFits"
	NoSnapshots       GuardName = "NoSnapshots"
	DisksReturn       GuardName = "DisksReturn"
	IdentityFree      GuardName = "IdentityFree"
	PathOpen          GuardName = "PathOpen"
)

// endGuards are the guards of Ends by name.
func endGuards() map[GuardName]Guard {
	return map[GuardName]Guard{
		OneMasterTarget: ofEnds(guardOneMasterTarget),
		ProcessServerFits: ofEnds(func(e *Ends) *Refusal {
			return endFits(e.ProcessServer, "process-server", problem.NoProcessServer)
		}),
		MasterTargetFits: ofEnds(func(e *Ends) *Refusal { return endFits(e.MasterTarget, "master-target", problem.NoMasterTarget) }),
		SiteAnswers:      ofEnds(guardSiteAnswers),
		DisksFit:         ofTarget(guardDisksFit),
		RetentionFits:    ofTarget(guardRetentionFits),
		DatastoreFits:    ofTarget(guardDatastoreFits),
		NoSnapshots:      ofTarget(guardNoSnapshots),
		DisksReturn:      ofTarget(guardDisksReturn),
		IdentityFree:     ofTarget(guardIdentityFree),
		PathOpen:         ofEnds(guardPathOpen),
	}
}

// ofEnds is a guard that has nothing to say while nothing is known of the ends.
func ofEnds(f func(*Ends) *Refusal) Guard {
	return func(_ Operation, facts Facts) *Refusal {
		if facts.Ends == nil {
			return nil
		}
		return f(facts.Ends)
	}
}

// ofTarget is a guard of what the master target said.
func ofTarget(f func(*Ends, *Said) *Refusal) Guard {
	return ofEnds(func(e *Ends) *Refusal {
		if e.MasterTarget.Said == nil {
			return nil
		}
		return f(e, e.MasterTarget.Said)
	})
}

func guardOneMasterTarget(e *Ends) *Refusal {
	if len(e.Mixed) == 0 {
		return nil
	}
	return &Refusal{problem.MixedMasterTargets, fmt.Sprintf("The members of a group share one journal, but were given different values: %s.", strings.Join(e.Mixed, "; ")), "Give all of them the same process server, master target and retention volume."}
}

func endFits(e End, role string, missing problem.Code) *Refusal {
	switch {
	case e.Gateway == "":
		return &Refusal{missing, fmt.Sprintf("Site %s has no gateway with the role %s.", e.Want, role), fmt.Sprintf("Start one there: 'rebound gateway enroll', then 'rebound gateway serve --roles %s'.", role)}
	case e.At != e.Want:
		return &Refusal{problem.WrongGateway, fmt.Sprintf("Gateway %s is of site %s; the %s has to be at site %s.", e.Gateway, e.At, role, e.Want), fmt.Sprintf("Choose a gateway of site %s.", e.Want)}
	case !e.HasRole:
		return &Refusal{problem.WrongGateway, fmt.Sprintf("Gateway %s has not the role %s.", e.Gateway, role), fmt.Sprintf("Choose another gateway of site %s, or give this one the role.", e.Want)}
	}
	if e.Said == nil || role != "process-server" || e.Said.SiteProblem != "" {
		return nil
	}
	for _, m := range e.Said.Machines {
		if !m.Exists {
			return &Refusal{problem.WrongGateway, fmt.Sprintf("Gateway %s does not see machine %s, so that it cannot capture it.", e.Gateway, m.Machine), "Choose the gateway of the host that runs the machine."}
		}
	}
	return nil
}

func guardSiteAnswers(e *Ends) *Refusal {
	for _, end := range []End{e.ProcessServer, e.MasterTarget} {
		if end.Said != nil && end.Said.SiteProblem != "" {
			return &Refusal{problem.SiteUnreachable, fmt.Sprintf("Gateway %s does not reach its site %s: %s.", end.Gateway, end.At, end.Said.SiteProblem), "Mend the connection of the gateway to its site, then run the operation again."}
		}
	}
	return nil
}

func guardDisksFit(e *Ends, s *Said) *Refusal {
	if s.DisksInUse+e.Disks <= s.DiskLimit {
		return nil
	}
	return &Refusal{problem.MasterTargetFull, fmt.Sprintf("Master target %s keeps %d disks and takes at most %d; the group has %d.", e.MasterTarget.Gateway, s.DisksInUse, s.DiskLimit, e.Disks), "Choose another master target, or disable what this one keeps and nobody needs."}
}

func guardRetentionFits(e *Ends, s *Said) *Refusal {
	name := e.Volume
	if name == "" {
		name = DefaultPlace
	}
	for _, v := range s.Volumes {
		switch {
		case v.Name != name:
		case v.Trouble != "":
			return &Refusal{problem.RetentionUnusable, fmt.Sprintf("Retention volume %s of gateway %s: %s.", name, e.MasterTarget.Gateway, v.Trouble), "Mend the volume or choose another; 'rebound gateway prerequisites' shows them all."}
		case v.FreeBytes < JournalReserve:
			return &Refusal{problem.NoRoom, fmt.Sprintf("Retention volume %s of gateway %s has %d bytes free; a journal begins with %d.", name, e.MasterTarget.Gateway, v.FreeBytes, int64(JournalReserve)), "Free room on the volume or choose another."}
		default:
			return nil
		}
	}
	return &Refusal{problem.RetentionUnusable, fmt.Sprintf("Gateway %s has no retention volume %q.", e.MasterTarget.Gateway, name), "Choose one of those that 'rebound gateway prerequisites' shows, or start the gateway with --retention-volume."}
}

// guardDatastoreFits looks only at the members that the target site lacks: the
// disks of the others stay where they are.
func guardDatastoreFits(e *Ends, s *Said) *Refusal {
	need := map[string]int64{}
	for _, m := range s.Machines {
		name := e.Datastores[m.Machine]
		if name == "" {
			name = DefaultPlace
		}
		if e.Datastores[m.Machine] != "" || !m.Exists {
			need[name] += 0
		}
		if !m.Exists {
			need[name] += e.Sizes[m.Machine]
		}
	}
	if len(need) > 0 && len(s.Datastores) == 0 {
		return &Refusal{problem.DatastoreUnusable, fmt.Sprintf("Site %s shows gateway %s no datastore that it may write to.", e.MasterTarget.At, e.MasterTarget.Gateway), "Give the gateway the right to write to one, then run the operation again."}
	}
	for name, bytes := range need {
		found := false
		for _, d := range s.Datastores {
			if d.Name != name {
				continue
			}
			found = true
			if d.FreeBytes < bytes {
				return &Refusal{problem.NoRoom, fmt.Sprintf("Datastore %s of site %s has %d bytes free, the disks that are missing need %d.", name, e.MasterTarget.At, d.FreeBytes, bytes), "Free room or choose another datastore."}
			}
		}
		if !found {
			return &Refusal{problem.DatastoreUnusable, fmt.Sprintf("Site %s has no datastore %q that gateway %s may write to.", e.MasterTarget.At, name, e.MasterTarget.Gateway), "Choose one of those that 'rebound gateway prerequisites' shows."}
		}
	}
	return nil
}

// findings returns the first member of which there is something to tell.
func findings(s *Said, of func(site.Finding) []string) (dr.MachineName, string) {
	for _, m := range s.Machines {
		if list := of(m); len(list) > 0 {
			return m.Machine, strings.Join(list, ", ")
		}
	}
	return "", ""
}

func guardNoSnapshots(e *Ends, s *Said) *Refusal {
	name, list := findings(s, func(f site.Finding) []string { return f.Snapshots })
	if list == "" {
		return nil
	}
	return &Refusal{problem.SnapshotsPresent, fmt.Sprintf("Disks of %s at site %s have snapshots, which writing to them would destroy: %s.", name, e.MasterTarget.At, list), "Delete the snapshots, or copy what they hold, then reprotect again."}
}

func guardDisksReturn(e *Ends, s *Said) *Refusal {
	name, list := findings(s, func(f site.Finding) []string { return f.NoBase })
	if list == "" {
		return nil
	}
	return &Refusal{problem.CannotComeHome, fmt.Sprintf("Disks of %s at site %s cannot take the data back: %s.", name, e.MasterTarget.At, list), "Convert them to raw and import the machine again, or delete the machine there: then it is made anew."}
}

func guardIdentityFree(e *Ends, s *Said) *Refusal {
	name, list := findings(s, func(f site.Finding) []string { return f.Twins })
	if list == "" {
		return nil
	}
	return &Refusal{problem.IdentityClash, fmt.Sprintf("At site %s another machine has the identity of %s: %s.", e.MasterTarget.At, name, list), "Give the other machine an identity of its own, or remove it."}
}

func guardPathOpen(e *Ends) *Refusal {
	if e.PathTrouble == "" {
		return nil
	}
	return &Refusal{problem.PathClosed, fmt.Sprintf("The data path is closed: %s.", e.PathTrouble), fmt.Sprintf("Open the port from gateway %s to gateway %s, then run the operation again.", e.ProcessServer.Gateway, e.MasterTarget.Gateway)}
}
