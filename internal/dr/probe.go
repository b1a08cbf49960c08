package dr

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

// MaxProbeTime is the most that a probe may take.
const MaxProbeTime = 5 * time.Minute

// defaultProbeTime is what a probe may take that does not say.
const defaultProbeTime = 10 * time.Second

// Probe is a check of the user's by which a started machine proves that it
// serves. It runs on the host of the gateway at the machine's site. Exactly one
// of TCP, HTTP and Command is set; "{machine}" in them stands for the machine's
// name.
type Probe struct {
	// Machine is the one that the probe proves; empty for every member.
	Machine MachineName `json:"machine,omitempty"`
	// TCP is a host:port that accepts a connection.
	TCP string `json:"tcp,omitempty"`
	// HTTP is a URL that answers a GET with a status below 400.
	HTTP string `json:"http,omitempty"`
	// Command names a program in the gateway's folder of scripts, with
	// arguments after it; it ends with 0.
	Command string `json:"command,omitempty"`
	// Seconds is how long one attempt may take; 0 means 10, the most is 300.
	Seconds int64 `json:"seconds,omitempty" minimum:"0" maximum:"300"`
}

// Validate says what is wrong with the probe.
func (p Probe) Validate() error {
	set := 0
	for _, s := range []string{p.TCP, p.HTTP, p.Command} {
		if s != "" {
			set++
		}
	}
	if set != 1 {
		return errors.New("a probe has exactly one of tcp, http and command")
	}
	if p.Seconds < 0 || time.Duration(p.Seconds)*time.Second > MaxProbeTime {
		return fmt.Errorf("a probe may take 1 to %d seconds", int(MaxProbeTime.Seconds()))
	}
	if p.TCP != "" {
		if host, port, err := net.SplitHostPort(p.TCP); err != nil || host == "" || port == "" {
			return fmt.Errorf("tcp probe %q: want host:port", p.TCP)
		}
	}
	if p.HTTP != "" {
		u, err := url.Parse(p.For("x").HTTP)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return fmt.Errorf("http probe %q: want an http or https address", p.HTTP)
		}
	}
	if name, _, _ := strings.Cut(p.Command, " "); strings.ContainsAny(name, `/\`) || strings.HasPrefix(name, ".") {
		return fmt.Errorf("command probe %q: want the name of a script of the gateway", p.Command)
	}
	return nil
}

// For is the probe of one machine.
func (p Probe) For(m MachineName) Probe {
	p.Machine = m
	for _, s := range []*string{&p.TCP, &p.HTTP, &p.Command} {
		*s = strings.ReplaceAll(*s, "{machine}", string(m))
	}
	return p
}

// Timeout is how long one attempt may take.
func (p Probe) Timeout() time.Duration {
	if p.Seconds == 0 {
		return defaultProbeTime
	}
	return time.Duration(p.Seconds) * time.Second
}

// String names what the probe asks, such as "tcp 10.0.0.4:22".
func (p Probe) String() string {
	switch {
	case p.TCP != "":
		return "tcp " + p.TCP
	case p.HTTP != "":
		return "http " + p.HTTP
	}
	return "command " + p.Command
}
