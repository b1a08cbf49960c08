package cli

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestGatewayPathsAreAbsolute: QEMU and the captures run in other directories
// than the gateway, so a relative path would lead them elsewhere.
func TestGatewayPathsAreAbsolute(t *testing.T) {
	t.Chdir("/")
	for _, c := range []struct{ in, want serveGateway }{
		{serveGateway{dir: "gw"}, serveGateway{dir: "/gw", runDir: "/gw/run", datastore: "/gw/datastore"}},
		{serveGateway{dir: "/a", runDir: "r", datastore: "d/../e"}, serveGateway{dir: "/a", runDir: "/r", datastore: "/e"}},
	} {
		if err := c.in.complete(); err != nil || !reflect.DeepEqual(c.in, c.want) {
			t.Errorf("%+v, %v; want %+v", c.in, err, c.want)
		}
	}
	long := serveGateway{dir: filepath.Join("/", strings.Repeat("x", maxRunDir))}
	if err := long.complete(); exitCode(err) != exitUsage {
		t.Errorf("a long path: %v", err)
	}
}

func TestClockText(t *testing.T) {
	for offset, want := range map[float64]string{0: "+0.000 s", 0.0002: "+0.000 s", -0.0002: "+0.000 s", 1.5: "-1.500 s", -600: "+600.000 s"} {
		if got := clockText(offset); got != want {
			t.Errorf("clockText(%v) = %q, want %q", offset, got, want)
		}
	}
}
