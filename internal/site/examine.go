package site

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"rebound/internal/dr"
	"rebound/internal/problem"
)

// Datastore is one place where a site keeps machines' disks. Sizes in bytes.
type Datastore struct {
	Name string `json:"name"`
	Path string `json:"path"`
	// ReadOnly ones cannot take a disk; they are never offered.
	ReadOnly   bool  `json:"readOnly,omitempty"`
	FreeBytes  int64 `json:"freeBytes"`
	TotalBytes int64 `json:"totalBytes"`
}

// DefaultDatastore is the name of the datastore that is used when none is
// named.
const DefaultDatastore = "default"

// Datastorer is a site that has more than one place for disks.
//
// Contract: Datastores tries each place at the moment it is asked, and lists
// the default one first. CreateIn is Driver.Create with the disks that do not
// exist yet put into the named datastore; disks that exist stay where they are.
// A name that is not listed is DatastoreUnusable.
type Datastorer interface {
	Datastores(ctx context.Context) ([]Datastore, error)
	CreateIn(ctx context.Context, def dr.Definition, datastore string) error
}

// Finding is what stands in the way of a machine at a site. Empty lists mean
// that nothing does.
type Finding struct {
	Machine dr.MachineName `json:"machine"`
	// Exists: the site has a machine of the name; State is its power.
	Exists bool       `json:"exists"`
	State  PowerState `json:"state,omitempty"`
	// Snapshots names snapshots inside of its disk images, as "disk0: name":
	// what is written below them would be lost with them.
	Snapshots []string `json:"snapshots,omitempty"`
	// NoBase names disks that have no raw file, so that no journal can have
	// them as its base, with the format they have.
	NoBase []string `json:"noBase,omitempty"`
	// Twins says which other machine of the site has the same UUID, or a
	// disk with the same serial number.
	Twins []string `json:"twins,omitempty"`
}

// Examiner looks for what stands in the way of a machine. It changes nothing.
type Examiner interface {
	Examine(ctx context.Context, def dr.Definition) (Finding, error)
}

// Versioner names the hypervisor with its version, for people.
type Versioner interface {
	Version(ctx context.Context) (string, error)
}

// Twins says in what another machine is taken for def: the same UUID, or a
// disk with the same serial number. Empty ones are nobody's.
func Twins(def dr.Definition, name dr.MachineName, other dr.Definition) []string {
	var out []string
	if def.UUID != "" && strings.EqualFold(def.UUID, other.UUID) {
		out = append(out, fmt.Sprintf("machine %s has the same UUID %s", name, def.UUID))
	}
	for _, a := range def.Disks {
		for _, b := range other.Disks {
			if a.Serial != "" && a.Serial == b.Serial {
				out = append(out, fmt.Sprintf("disk %s of machine %s has the same serial number %s as %s", b.ID, name, a.Serial, a.ID))
			}
		}
	}
	return out
}

// TryWrite proves that a folder takes data: it writes a file there, brings it
// to the disk and removes it. Root's rights do not deceive it about a volume
// that is mounted read-only or full.
func TryWrite(dir string) error {
	f, err := os.CreateTemp(dir, ".rebound-try-*")
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 4096))
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
}

// DatastoresOf lists the datastores of any driver: one that has only one place
// has it under DefaultDatastore.
func DatastoresOf(ctx context.Context, d Driver) ([]Datastore, error) {
	if ds, ok := d.(Datastorer); ok {
		return ds.Datastores(ctx)
	}
	free, total, err := d.Room(ctx)
	if err != nil {
		return nil, err
	}
	return []Datastore{{Name: DefaultDatastore, FreeBytes: free, TotalBytes: total}}, nil
}

// CreateIn is Driver.Create in a datastore; a driver with one place knows only
// DefaultDatastore.
func CreateIn(ctx context.Context, d Driver, def dr.Definition, datastore string) error {
	if datastore == "" || datastore == DefaultDatastore {
		return d.Create(ctx, def)
	}
	if ds, ok := d.(Datastorer); ok {
		return ds.CreateIn(ctx, def, datastore)
	}
	return problem.New(problem.DatastoreUnusable, "the site has no datastore %q", datastore)
}

// ExamineAt examines a machine at any site: where the driver cannot look into
// images, by the inventory alone.
func ExamineAt(ctx context.Context, d Driver, def dr.Definition) (Finding, error) {
	if e, ok := d.(Examiner); ok {
		return e.Examine(ctx, def)
	}
	f := Finding{Machine: def.Name}
	list, err := d.Machines(ctx)
	if err != nil {
		return f, err
	}
	for _, m := range list {
		if m.Definition.Name == def.Name {
			f.Exists, f.State = true, m.State
		} else {
			f.Twins = append(f.Twins, Twins(def, m.Definition.Name, m.Definition)...)
		}
	}
	return f, nil
}
