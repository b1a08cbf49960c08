package agent

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"rebound/internal/dr"
)

// structure is one SMBIOS structure of a type.
func structure(kind byte, strs ...string) []byte {
	b := []byte{kind, 5, 0x34, 0x12, byte(len(strs))}
	for _, s := range strs {
		b = append(append(b, s...), 0)
	}
	if len(strs) == 0 {
		b = append(b, 0)
	}
	return append(b, 0)
}

func TestOEMStrings(t *testing.T) {
	card := dr.GuestCard{MAC: "52:54:00:12:34:56", Address: dr.Address{IPs: []string{"192.0.2.7/24"}, Gateways: []string{"192.0.2.1"}}}
	table := slices.Concat(structure(1, "QEMU"), structure(3), structure(11, "other", card.String()), structure(11, "more"), structure(127), structure(11, "after the end"))
	got := oemStrings(table)
	if want := []string{"other", card.String(), "more"}; !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	back, ok, err := dr.ParseGuestCard(got[1])
	if !ok || err != nil || back.MAC != card.MAC || !slices.Equal(back.IPs, card.IPs) {
		t.Errorf("read back as %+v, %v, %v", back, ok, err)
	}
	if _, ok, err := dr.ParseGuestCard(got[0]); ok || err != nil {
		t.Errorf("a foreign string was taken: %v, %v", ok, err)
	}
	for cut := range table {
		oemStrings(table[:cut]) // no end of it may panic
	}
}

func TestNameServersAreWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("nameserver 10.9.9.9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := setDNS(path, nil); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "nameserver 10.9.9.9\n" {
		t.Errorf("without name servers the file became %q", b)
	}
	if err := setDNS(path, []string{"192.0.2.53", "2001:db8::53"}); err != nil {
		t.Fatal(err)
	}
	want := "# written by rebound agent, from the machine's target settings\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n"
	if b, _ := os.ReadFile(path); string(b) != want {
		t.Errorf("the file is %q", b)
	}
}
