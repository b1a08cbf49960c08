package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/journal/vfs"
	"rebound/internal/segment"
)

const rollbackName = "rollback"

// rollbackFile is what RollbackSet saves.
type rollbackFile struct {
	Group    dr.GroupID                `json:"group"`
	Position dr.Position               `json:"position"`
	Disks    map[uint16][]extent.Range `json:"disks"`
}

// RollbackSet returns, by disk index, the ranges that were written after pos:
// what the fenced source holds beyond the point. It is saved in the journal's
// directory first; LoadRollbackSet reads it with nothing open.
func (j *Journal) RollbackSet(pos dr.Position) (map[uint16]*extent.Set, error) {
	if err := j.usable(); err != nil {
		return nil, err
	}
	j.mu.Lock()
	end := j.head
	if n := len(j.segs); n > 0 && end.Before(j.segs[n-1].end()) {
		end = j.segs[n-1].end()
	}
	if j.damage != nil {
		j.mu.Unlock()
		return nil, j.damage // it would not be whole
	}
	plan := j.redoBetween(pos, end)
	j.mu.Unlock()
	defer plan.release()
	sets := map[uint16]*extent.Set{}
	for i := range j.disks {
		sets[uint16(i)] = &extent.Set{}
	}
	// Through a runMap, which takes ranges in any order at the same price.
	maps := make([]*runMap, len(j.disks))
	for i := range maps {
		maps[i] = newRunMap()
	}
	err := plan.each(context.Background(), func(s *segmentFile, r *segment.Record) bool {
		maps[r.Disk].put(s.pieceOf(r))
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("rollback set after %v: %w", pos, err)
	}
	out := rollbackFile{Group: j.man.get().Group, Position: pos, Disks: map[uint16][]extent.Range{}}
	for i, m := range maps {
		for _, p := range m.pieces() { // in order: each Add goes to the end
			sets[uint16(i)].Add(extent.Range{Off: p.off, Len: p.len})
		}
		out.Disks[uint16(i)] = sets[uint16(i)].Runs()
	}
	b, err := sealEnvelope(rollbackMagic, out)
	if err == nil {
		err = writeFile(j.fs, filepath.Join(j.dir, rollbackName), b)
	}
	if err != nil {
		return nil, fmt.Errorf("save rollback set: %w", err)
	}
	return sets, nil
}

// LoadRollbackSet reads what RollbackSet saved in dir; nil fsys is the real
// file system. It returns fs.ErrNotExist when there is none.
func LoadRollbackSet(dir string, fsys vfs.FS) (dr.Position, map[uint16]*extent.Set, error) {
	if fsys == nil {
		fsys = vfs.OS{}
	}
	b, err := readFile(fsys, filepath.Join(dir, rollbackName))
	if err != nil {
		return dr.Position{}, nil, fmt.Errorf("read rollback set: %w", err)
	}
	var f rollbackFile
	if err := openEnvelope(rollbackMagic, b, &f); err != nil {
		return dr.Position{}, nil, fmt.Errorf("read rollback set: %w", err)
	}
	sets := map[uint16]*extent.Set{}
	for i, runs := range f.Disks {
		sets[i] = extent.NewSet(runs...)
	}
	return f.Position, sets, nil
}

// DeleteRollbackSet removes it, once a reprotect has used it.
func DeleteRollbackSet(dir string, fsys vfs.FS) error {
	if fsys == nil {
		fsys = vfs.OS{}
	}
	err := fsys.Remove(filepath.Join(dir, rollbackName))
	if err == nil {
		err = fsys.SyncDir(dir)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete rollback set: %w", err)
	}
	return nil
}
