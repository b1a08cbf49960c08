package logging

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestSecretsAreNotWritten(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		log, recent, err := New(Options{W: &out, Format: format})
		if err != nil {
			t.Fatal(err)
		}
		log.With("group", "web").Info("hello", "job", "j1", "token", "PLANTED1", "passphrase", "PLANTED2", "clientSecret", "PLANTED3", "Authorization", "PLANTED4")
		log.Debug("too fine")
		for name, text := range map[string]string{"log": out.String(), "memory": string(recent.Bytes())} {
			if strings.Contains(text, "PLANTED") || !strings.Contains(text, Redacted) || !strings.Contains(text, "j1") || !strings.Contains(text, "web") || strings.Contains(text, "too fine") {
				t.Errorf("%s (%s): %s", name, format, text)
			}
		}
		if format == "json" {
			var row map[string]any
			if err := json.Unmarshal(out.Bytes(), &row); err != nil || row["job"] != "j1" || row["group"] != "web" {
				t.Errorf("%v: %v", row, err)
			}
		}
	}
}

func TestBadOptions(t *testing.T) {
	for _, o := range []Options{{Format: "xml"}, {Level: "loud"}} {
		if _, _, err := New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	r := &Recent{}
	line := bytes.Repeat([]byte("x"), 1000)
	for i := range 10_000 {
		line[0] = byte('0' + i%10)
		if _, err := r.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	got := r.Bytes()
	if len(got) > recentBytes || len(got) < recentBytes/2 || got[len(got)-1000] != '9' {
		t.Errorf("%d bytes are kept, the last line begins with %c", len(got), got[len(got)-1000])
	}
}
