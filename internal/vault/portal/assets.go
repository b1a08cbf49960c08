package portal

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"
)

// The files beside the pages. All of assets/css becomes one sheet.
//
//go:embed assets
var assetFiles embed.FS

// assets are the files that browsers keep: their addresses hold a hash of
// them all, so that scripts can import each other by relative names.
type assets struct {
	prefix string
	files  map[string][]byte
}

// styleSheet is the name of all style sheets in one.
const styleSheet = "portal.css"

func newAssets() (*assets, error) {
	a := &assets{files: map[string][]byte{}}
	var sheets []string
	sum := sha256.New()
	err := fs.WalkDir(assetFiles, "assets", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := assetFiles.ReadFile(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "%s %d\n", name, len(b))
		sum.Write(b)
		name = strings.TrimPrefix(name, "assets/")
		if strings.HasPrefix(name, "css/") {
			sheets = append(sheets, name)
		}
		a.files[name] = b
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read assets: %w", err)
	}
	slices.Sort(sheets)
	var all []byte
	for _, name := range sheets {
		all = append(all, a.files[name]...)
		delete(a.files, name)
	}
	a.files[styleSheet] = all
	a.prefix = "/assets/" + hex.EncodeToString(sum.Sum(nil)[:8]) + "/"
	return a, nil
}

// path is the address of a file.
func (a *assets) path(name string) string { return a.prefix + name }

func (a *assets) serve(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutPrefix(r.URL.Path, a.prefix)
	b, known := a.files[name]
	if !ok || !known {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", mime.TypeByExtension(path.Ext(name)))
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Write(b) //nolint:errcheck // the reader is gone then
}
