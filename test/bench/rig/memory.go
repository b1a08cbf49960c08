package rig

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Memory of a process, in MiB.
type Memory struct {
	Resident  float64
	Anonymous float64 // without mapped files
}

// MemoryOf reads what the kernel says of a process.
func MemoryOf(pid int) (Memory, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return Memory{}, fmt.Errorf("read memory of process: %w", err)
	}
	return parseMemory(string(b))
}

func parseMemory(status string) (m Memory, err error) {
	found := 0
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		var to *float64
		switch name {
		case "VmRSS":
			to = &m.Resident
		case "RssAnon":
			to = &m.Anonymous
		default:
			continue
		}
		kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
		if err != nil {
			return Memory{}, fmt.Errorf("read memory of process: %w", err)
		}
		*to = kib / 1024
		found++
	}
	if found != 2 {
		return Memory{}, fmt.Errorf("read memory of process: %d of 2 lines found", found)
	}
	return m, nil
}
