package journal

import (
	"bytes"
	"testing"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// write sends one write to a disk and returns its position.
func (w *world) write(disk uint16) dr.Position {
	w.t.Helper()
	e := w.entry(segment.KindWrite)
	e.disk, e.off, e.len, e.data = disk, int64(w.r.IntN(40))*4096, 4096, make([]byte, 4096)
	for i := range e.data {
		e.data[i] = byte(w.r.Uint32())
	}
	w.send([]modelEntry{e})
	return e.pos
}

// apart ends a stream so that its members' newest writes lie at different places
// past what is confirmed.
func apart(t *testing.T, seed uint64) (w *world, group dr.Position, own map[dr.MachineName]dr.Position) {
	t.Helper()
	w = script(t, seed)
	for range 6 {
		w.opWrites()
	}
	group = w.beacon()
	w.write(0)
	first := w.write(0)
	w.write(1)
	second := w.write(1)
	w.send([]modelEntry{w.entry(segment.KindBreak)})
	w.sync()
	return w, group, map[dr.MachineName]dr.Position{"vm0": first, "vm1": second}
}

// wantMembers demands the members' positions, and that the views there hold the
// writes up to there.
func (w *world) wantMembers(want map[dr.MachineName]dr.Position) {
	w.t.Helper()
	got, err := w.j.ResolveMembers(w.t.Context())
	w.must(err)
	if len(got) != len(want) {
		w.t.Fatalf("members %+v", got)
	}
	for i, m := range got {
		if m.Position != want[m.Machine] {
			w.t.Errorf("%s is at %v, want %v", m.Machine, m.Position, want[m.Machine])
		}
		if m.Time.IsZero() {
			w.t.Errorf("%s has no time", m.Machine)
		}
		w.wantMemberView(i, m.Position)
	}
}

func (w *world) wantMemberView(disk int, pos dr.Position) {
	w.t.Helper()
	dev, err := w.j.OpenMemberView(w.t.Context(), pos, uint16(disk))
	w.must(err)
	defer dev.Close()
	buf := make([]byte, modelDiskSize)
	w.must(dev.ReadAt(w.t.Context(), buf, 0))
	if !bytes.Equal(buf, w.content(disk, pos)) {
		w.t.Errorf("the view of disk %d at %v is not what was written up to there", disk, pos)
	}
}

// TestMembersGoFurtherThanTheGroup: after a break each machine's own newest
// write can be used, for it alone; for the group it stays refused.
func TestMembersGoFurtherThanTheGroup(t *testing.T) {
	w, group, own := apart(t, 2)
	check := func() {
		t.Helper()
		r, err := w.j.Resolve(dr.Latest)
		if err != nil || r.Position != group {
			t.Errorf("the group's latest is %v, %v; want %v", r.Position, err, group)
		}
		w.wantMembers(own)
		for m, p := range own {
			if _, err := w.j.OpenView(t.Context(), p, 0); !problem.HasCode(err, problem.PointNotConfirmed) {
				t.Errorf("a view of the group at %v: %v", p, err)
			}
			if err := w.j.RegisterView(View{ID: string(m), Machine: m, Position: p}); !problem.HasCode(err, problem.PointNotConfirmed) {
				t.Errorf("the group's view of %s at %v: %v", m, p, err)
			}
		}
	}
	check()
	w.must(w.j.Close())
	w.reopen()
	check()
}

// TestMembersInTheMiddleOfASynchronisation: what a synchronisation has begun to
// change is used for nobody; the ends of the epoch before are.
func TestMembersInTheMiddleOfASynchronisation(t *testing.T) {
	w, _, own := apart(t, 2)
	epoch, err := w.j.NewEpoch(w.gen)
	w.must(err)
	w.head, w.ended = dr.Position{Generation: w.gen, Epoch: epoch}, false
	w.send([]modelEntry{w.entry(segment.KindSyncBegin)})
	w.write(0)
	w.sync()
	got, err := w.j.ResolveMembers(t.Context())
	w.must(err)
	for i, m := range got {
		if m.Position != own[m.Machine] {
			t.Errorf("%s is at %v, want %v", m.Machine, m.Position, own[m.Machine])
		}
		w.wantMemberView(i, m.Position)
	}
	if got[0].LostBytes != 4096 || got[1].LostBytes != 0 {
		t.Errorf("lost %d and %d bytes, want 4096 and 0", got[0].LostBytes, got[1].LostBytes)
	}
	if err := w.j.CheckMember("vm0", w.head); !problem.HasCode(err, problem.PointNotConfirmed) {
		t.Errorf("inside the synchronisation: %v", err)
	}
}

// TestSeveralDisksStayConfirmed: of a machine with several disks nobody knows
// that none was lost before the others.
func TestSeveralDisksStayConfirmed(t *testing.T) {
	w, group, own := apart(t, 2)
	for i := range w.j.disks {
		w.j.disks[i].Machine = "both"
	}
	got, err := w.j.ResolveMembers(t.Context())
	w.must(err)
	if len(got) != 1 || got[0].Position != group || got[0].LostBytes != 4*4096 {
		t.Errorf("a machine of two disks: %+v, want %v", got, group)
	}
	if err := w.j.CheckMember("both", own["vm1"]); !problem.HasCode(err, problem.PointNotConfirmed) {
		t.Errorf("past the last beacon: %v", err)
	}
}

// TestFoldMembers lets the machine stop at every operation on a file while each
// base is folded to a position of its own, and goes on: in the end each holds
// exactly the writes up to its own.
func TestFoldMembers(t *testing.T) {
	for fuse := 1; ; fuse++ {
		w, group, own := apart(t, 2)
		for m, p := range own {
			w.must(w.j.RegisterView(View{ID: string(m), Machine: m, Position: p, Alone: true}))
		}
		w.fuse = fuse
		err := w.j.FoldMembers(t.Context(), own, nil)
		whole := !w.blown
		if !whole {
			w.crash()
			w.fuse = 0
			for i, m := range []dr.MachineName{"vm0", "vm1"} {
				w.wantMemberView(i, own[m]) // machines run on it meanwhile
			}
			err = w.j.FoldMembers(t.Context(), own, nil)
		}
		w.fuse = 0
		w.must(err)
		w.must(w.j.FoldMembers(t.Context(), own, nil)) // repeated
		for i, m := range []dr.MachineName{"vm0", "vm1"} {
			w.wantMemberView(i, own[m])
			w.wantBase(i, own[m])
		}
		if _, err := w.j.OpenView(t.Context(), group, 0); !problem.HasCode(err, problem.PointInUse) {
			t.Errorf("after the fold another position is opened: %v", err)
		}
		w.must(w.j.Release())
		if whole {
			t.Logf("%d operations on files", fuse-1)
			return
		}
	}
}

func (w *world) wantBase(disk int, pos dr.Position) {
	w.t.Helper()
	f, err := w.mem.Open(w.j.man.get().BasePaths[disk], false)
	w.must(err)
	defer f.Close()
	buf := make([]byte, modelDiskSize)
	_, err = f.ReadAt(buf, 0)
	w.must(err)
	if !bytes.Equal(buf, w.content(disk, pos)) {
		w.t.Errorf("the base of disk %d is not what was written up to %v", disk, pos)
	}
}

// TestFoldMembersRefuses other views: a fold would change what they show.
func TestFoldMembersRefuses(t *testing.T) {
	w, group, own := apart(t, 2)
	dev, err := w.j.OpenView(t.Context(), group, 0)
	w.must(err)
	if err := w.j.FoldMembers(t.Context(), own, nil); !problem.HasCode(err, problem.PointInUse) {
		t.Errorf("with a view at %v: %v", group, err)
	}
	w.must(dev.Close())
	if err := w.j.FoldMembers(t.Context(), map[dr.MachineName]dr.Position{"vm0": own["vm0"]}, nil); !problem.HasCode(err, problem.InvalidRequest) {
		t.Errorf("without a position of vm1: %v", err)
	}
	w.wantMembers(own)
}
