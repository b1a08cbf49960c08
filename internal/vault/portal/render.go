package portal

import (
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"path"
	"strings"
)

//go:embed templates
var templateFiles embed.FS

// loadPages reads every page's template together with the base and the partials.
func loadPages(p *Portal) (map[string]*template.Template, error) {
	base, err := template.New("").Funcs(p.functions()).ParseFS(templateFiles, "templates/base.html", "templates/partials/*.html")
	if err != nil {
		return nil, fmt.Errorf("read templates: %w", err)
	}
	names, err := fs.Glob(templateFiles, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("list templates: %w", err)
	}
	pages := map[string]*template.Template{}
	for _, file := range names {
		name := strings.TrimSuffix(path.Base(file), ".html")
		if name == "base" {
			continue
		}
		t, err := base.Clone()
		if err == nil {
			_, err = t.ParseFS(templateFiles, file)
		}
		if err != nil {
			return nil, fmt.Errorf("read template %s: %w", file, err)
		}
		pages[name] = t
	}
	return pages, nil
}
