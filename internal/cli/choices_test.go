package cli

import (
	"reflect"
	"testing"

	"rebound/internal/dr"
	"rebound/internal/vault/rest"
)

func TestPointChoices(t *testing.T) {
	l := newLab(t)
	l.protected()
	c := read[rest.Choices](t, "point", "choices", "shop")
	if c.Operation != "failover" || c.Recommended != dr.Latest || len(c.Choices) != 7 {
		t.Errorf("choices %+v", c)
	}
	contains(t, want(t, exitOK, "point", "choices", "shop").out, "* Latest", "--per-machine", "cannot be used: no application-consistent point", "loses")
	if c := read[rest.Choices](t, "point", "choices", "shop", "--for", "test-failover"); c.Recommended != dr.LatestProcessed {
		t.Errorf("a test takes %s", c.Recommended)
	}
	refused(t, exitUsage, "InvalidRequest", "point", "choices", "shop", "--for", "commit")
	refused(t, exitRefused, "NoRecoveryPoint", "failover", "shop", "--unplanned", "--point", "latest-app", "--yes")
	dry := read[rest.DryRun](t, "failover", "shop", "--unplanned", "--per-machine", "--dry-run")
	if dry.Recovered == nil || len(dry.Recovered.Members) != 2 {
		t.Errorf("dry run per machine: %+v", dry)
	}
}

func TestParseProbe(t *testing.T) {
	for text, want := range map[string]dr.Probe{
		"tcp:10.0.0.4:22":         {TCP: "10.0.0.4:22"},
		"web=tcp:web:443":         {Machine: "web", TCP: "web:443"},
		"https://x.example/a?b=c": {HTTP: "https://x.example/a?b=c"},
		"db=http://db/ping":       {Machine: "db", HTTP: "http://db/ping"},
		"command:check-db 1":      {Command: "check-db 1"},
	} {
		if got, err := parseProbe(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "tcp:x", "web", "ftp://x", "command:/bin/sh", "web=tcp"} {
		if got, err := parseProbe(text); err == nil {
			t.Errorf("%q was read as %+v", text, got)
		}
	}
}
