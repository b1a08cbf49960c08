package problem

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestNothingIsSaidTwice: however often a problem was wrapped, its title is
// told once, and the words around it are kept.
func TestNothingIsSaidTwice(t *testing.T) {
	away := New(GatewayUnreachable, "gateway gw-1 is away")
	plain := errors.New("dial tcp: refused")
	for _, c := range []struct {
		err  error
		want string
	}{
		{away, "GatewayUnreachable: The gateway cannot be reached: gateway gw-1 is away"},
		{Wrap(away, GatewayUnreachable, "vm1"), "GatewayUnreachable: The gateway cannot be reached: vm1: gateway gw-1 is away"},
		{Wrap(fmt.Errorf("stop vm1: %w", away), GatewayUnreachable, "vm1"), "GatewayUnreachable: The gateway cannot be reached: vm1: stop vm1: gateway gw-1 is away"},
		{Wrap(away, NoRoom, "vm1"), "NoRoom: There is not enough room: vm1: The gateway cannot be reached: gateway gw-1 is away"},
		{Wrap(plain, GatewayUnreachable, "%v", plain), "GatewayUnreachable: The gateway cannot be reached: dial tcp: refused"},
		{Wrap(New(MachineRunning, ""), NoRoom, ""), "NoRoom: There is not enough room: The machine is running"},
		{From(fmt.Errorf("gateway a does not reach b: %w", away)), "GatewayUnreachable: The gateway cannot be reached: gateway a does not reach b: gateway gw-1 is away"},
		{From(From(fmt.Errorf("outer: %w", fmt.Errorf("inner: %w", away)))).Plain(), "GatewayUnreachable: The gateway cannot be reached: outer: inner: gateway gw-1 is away"},
		{From(plain), "InternalError: Rebound met an error that it has no better name for: dial tcp: refused"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
		if n := strings.Count(c.err.Error(), away.Title); n > 1 {
			t.Errorf("the title is told %d times: %v", n, c.err)
		}
	}
	if got := Text(fmt.Errorf("stop vm1: %w", away)); got != "stop vm1: The gateway cannot be reached: gateway gw-1 is away" {
		t.Errorf("text: %s", got)
	}
	if !errors.Is(From(fmt.Errorf("x: %w", away)), away) {
		t.Error("the cause is lost")
	}
}
