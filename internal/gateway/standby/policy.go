package standby

import (
	"fmt"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/journal"
	"rebound/internal/problem"
)

// TakePolicy lets a group's journal go by changed settings from the next fold
// on. A group without a journal here is left alone.
func (h *Host) TakePolicy(id dr.GroupID, p control.PolicySettings) error {
	g, err := h.find(id)
	if problem.HasCode(err, problem.UnknownGroup) {
		return nil
	}
	if err != nil {
		return err
	}
	return g.takePolicy(p)
}

func (g *group) takePolicy(p control.PolicySettings) error {
	set := g.settings()
	if set.Phase != phaseJournal || set.Request.RedoWindow == p.RedoWindow && set.Request.Retention == p.Retention {
		return nil
	}
	jrn, err := g.open()
	if err != nil {
		return nil // its commit ended it meanwhile
	}
	window := p.RedoWindow
	if window == 0 {
		window = journal.DefaultRedoWindow
	}
	if err := jrn.SetRedoWindow(window); err != nil {
		return fmt.Errorf("change redo window of group %s: %w", g.id, err)
	}
	g.host.cfg.Log.Info("policy changed", "group", g.id, "redoWindow", window, "retention", p.Retention)
	return g.save(func(s *settings) {
		s.Request.RedoWindow, s.Request.Retention = p.RedoWindow, p.Retention
	})
}
