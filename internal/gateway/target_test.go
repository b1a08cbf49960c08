package gateway_test

import (
	"testing"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// TestTargetSettingsAtTheStandby: the gateway applies them to the definition of
// the moment; what it refuses leaves nothing, and a repetition goes by what was
// asked for first.
func TestTargetSettingsAtTheStandby(t *testing.T) {
	w := protect(t)
	at := w.point(w.home).Position
	before, err := w.cloud.driver.Machine(w.ctx, web)
	w.must(err)
	request := func(s site.TargetSettings) control.StartRecoveredRequest {
		return control.StartRecoveredRequest{Group: group, Machine: web, Position: at, Target: site.Target{Settings: s}}
	}

	_, err = w.cloud.host.StartRecovered(w.ctx, request(site.TargetSettings{BootOrder: []dr.DiskID{"nothing"}}))
	if !problem.HasCode(err, problem.UnknownDisk) {
		t.Errorf("a boot order of nothing: %v", err)
	}
	more := site.TargetSettings{CPUs: before.Definition.CPUs + 3, Name: "shown"}
	for range 2 {
		_, err = w.cloud.host.StartRecovered(w.ctx, request(more))
		w.must(err)
	}
	m, err := w.cloud.driver.Machine(w.ctx, web)
	w.must(err)
	if m.State != site.Running || m.Definition.CPUs != more.CPUs || m.Definition.Label != "shown" || m.Definition.Replaced == nil {
		t.Errorf("the machine is %s, %+v", m.State, m.Definition)
	}
	// Changed settings hold from the next start on.
	_, err = w.cloud.host.StartRecovered(w.ctx, request(site.TargetSettings{CPUs: 1}))
	w.must(err)
	if m, err = w.cloud.driver.Machine(w.ctx, web); err != nil || m.Definition.CPUs != more.CPUs {
		t.Errorf("a repetition changed the machine: %+v, %v", m.Definition, err)
	}
	w.must(w.cloud.host.DiscardRecovered(w.ctx, control.DiscardRecoveredRequest{Group: group, Machine: web}))
	if m, err = w.cloud.driver.Machine(w.ctx, web); err != nil || m.Definition.CPUs != before.Definition.CPUs || m.State != site.Off {
		t.Errorf("after discarding the machine is %s, %+v, %v", m.State, m.Definition, err)
	}
}
