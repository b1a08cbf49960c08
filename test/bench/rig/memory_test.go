package rig

import (
	"os"
	"testing"
)

func TestParseMemory(t *testing.T) {
	m, err := parseMemory("Name:\tx\nVmRSS:\t    2048 kB\nRssAnon:\t     512 kB\n")
	if err != nil || m != (Memory{2, 0.5}) {
		t.Errorf("%+v, %v", m, err)
	}
	if m, err := parseMemory("VmRSS:\t1 kB\n"); err == nil {
		t.Errorf("half of it was taken: %+v", m)
	}
	if m, err := MemoryOf(os.Getpid()); err != nil || m.Resident < m.Anonymous || m.Anonymous <= 0 {
		t.Errorf("own memory %+v, %v", m, err)
	}
}
