package site_test

import (
	"bytes"
	"fmt"
	"image/color"
	"image/png"
	"math/rand/v2"
	"strings"
	"testing"

	"rebound/internal/site"
)

func TestSetPicture(t *testing.T) {
	var v site.ConsoleView
	if err := v.SetPicture(strings.NewReader("P6\n2 1\n255\n\x01\x02\x03\x04\x05\x06")); err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(v.Picture))
	if err != nil || v.Width != 2 || v.Height != 1 || img.At(1, 0) != (color.RGBA{4, 5, 6, 255}) {
		t.Errorf("read %v, %v", img, err)
	}
	for _, bad := range []string{"", "P5\n2 1\n255\n", "P6\n2 1\n255\n\x01", "P6\n0 1\n255\n", "P6\n99999 99999\n255\n", "P6\n16777216 16777216\n255\n", "P6\n2 1\n65535\n"} {
		if err := v.SetPicture(strings.NewReader(bad)); err == nil {
			t.Errorf("took %q", bad)
		}
	}
}

// A picture that no compression helps is made smaller.
func TestSetPictureLarge(t *testing.T) {
	noise := make([]byte, 3*1024*768)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(noise)
	var v site.ConsoleView
	if err := v.SetPicture(strings.NewReader(fmt.Sprintf("P6 1024 768 255\n%s", noise))); err != nil {
		t.Fatal(err)
	}
	if v.Width != 512 || v.Height != 384 || len(v.Picture) > 1<<20 {
		t.Errorf("%d x %d in %d bytes", v.Width, v.Height, len(v.Picture))
	}
}
