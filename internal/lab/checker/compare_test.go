package checker

import (
	"os"
	"path/filepath"
	"testing"
)

// sparse makes a file of a size with bytes set at offsets.
func sparse(t *testing.T, size int64, set map[int64]byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for off, b := range set {
		if _, err := f.WriteAt([]byte{b}, off); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestCompareImages(t *testing.T) {
	const mib = 1 << 20
	for _, tc := range []struct {
		name   string
		a, b   map[int64]byte
		sa, sb int64
		blocks int64
		first  int64
	}{
		{"both empty", nil, nil, 64 * mib, 64 * mib, 0, -1},
		{"hole and written zeros", map[int64]byte{5 * mib: 0}, nil, 64 * mib, 64 * mib, 0, -1},
		{"one byte in a hole of the other", nil, map[int64]byte{40*mib + 5000: 1}, 64 * mib, 64 * mib, 1, 40*mib + 4096},
		{"two in one block, one beside", map[int64]byte{0: 1, 4095: 1, 4096: 1}, nil, mib, mib, 2, 0},
		{"last block", map[int64]byte{3*mib + 511: 9}, map[int64]byte{3*mib + 511: 8}, 3*mib + 512, 3*mib + 512, 1, 3 * mib},
		{"longer by zeros", map[int64]byte{1: 1}, map[int64]byte{1: 1}, mib, 3 * mib, 0, -1},
		{"longer by data", nil, map[int64]byte{2*mib + 1: 1}, mib, 3 * mib, 1, 2 * mib},
		{"same", map[int64]byte{77: 7}, map[int64]byte{77: 7}, mib, mib, 0, -1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, err := CompareImages(sparse(t, tc.sa, tc.a), sparse(t, tc.sb, tc.b))
			if err != nil {
				t.Fatal(err)
			}
			if d.Blocks != tc.blocks || d.Bytes != tc.blocks*BlockSize || d.First != tc.first {
				t.Errorf("%+v, want %d blocks from %d", d, tc.blocks, tc.first)
			}
		})
	}
}
