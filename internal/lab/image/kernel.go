package image

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// kernelPackage is Debian's kernel for virtual machines; it depends on the
// package of the present release.
const kernelPackage = "linux-image-cloud-amd64"

// kernelFiles is an unpacked kernel package.
type kernelFiles struct {
	release string            // such as "6.1.0-56-cloud-amd64"
	image   string            // path of vmlinuz
	modules map[string]string // by name, underscores for hyphens: path of the .ko
}

var releasePackage = regexp.MustCompile(`(?m)^\s*Depends: linux-image-([0-9][^ ]*-cloud-amd64)\s*$`)

// kernel returns the newest kernel in the cache, downloaded when there is none.
func (b *Builder) kernel(ctx context.Context) (*kernelFiles, error) {
	if dirs, _ := filepath.Glob(filepath.Join(b.cfg.CacheDir, "kernel-*")); len(dirs) > 0 {
		return openKernel(dirs[len(dirs)-1])
	}
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", kernelPackage).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("find the kernel package (run apt-get update): %w: %s", err, bytes.TrimSpace(out))
	}
	m := releasePackage.FindSubmatch(out)
	if m == nil {
		return nil, fmt.Errorf("find the kernel package: %s depends on none: %s", kernelPackage, bytes.TrimSpace(out))
	}
	release := string(m[1])
	dir, err := b.cached("kernel-"+release, func(tmp string) error { return unpack(ctx, "linux-image-"+release, tmp) })
	if err != nil {
		return nil, err
	}
	return openKernel(dir)
}

// unpack downloads a package and unpacks it at dir.
func unpack(ctx context.Context, pkg, dir string) error {
	work := filepath.Dir(dir)
	// As root, apt would drop its rights and then cannot write here.
	if err := runIn(ctx, work, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", pkg); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(work, pkg+"_*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("download %s: found %d packages", pkg, len(debs))
	}
	return run(ctx, "dpkg", "-x", debs[0], dir)
}

func openKernel(dir string) (*kernelFiles, error) {
	k := &kernelFiles{release: strings.TrimPrefix(filepath.Base(dir), "kernel-"), modules: make(map[string]string)}
	k.image = filepath.Join(dir, "boot", "vmlinuz-"+k.release)
	if _, err := os.Stat(k.image); err != nil {
		return nil, fmt.Errorf("open kernel: %w", err)
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".ko") {
			k.modules[moduleName(path)] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list kernel modules: %w", err)
	}
	return k, nil
}

// moduleName returns the name of a module file: hyphens count as underscores.
func moduleName(path string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(path), ".ko"), "-", "_")
}

// loadOrder returns the named modules and what they depend on, each after its
// dependencies. Names that the kernel has no module for are built into it.
func (k *kernelFiles) loadOrder(names []string) ([]string, error) {
	var order []string
	seen := make(map[string]bool)
	var visit func(name string) error
	visit = func(name string) error {
		path, ok := k.modules[name]
		if !ok || seen[name] {
			return nil
		}
		seen[name] = true
		deps, err := moduleDepends(path)
		if err != nil {
			return err
		}
		for _, d := range deps {
			if err := visit(d); err != nil {
				return err
			}
		}
		order = append(order, name)
		return nil
	}
	for _, n := range names {
		if err := visit(strings.ReplaceAll(n, "-", "_")); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleDepends reads a module's own statement of what it depends on: the
// "depends=" of its .modinfo section. (The package holds no modules.dep; that
// is made when it is installed.)
func moduleDepends(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read module: %w", err)
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return nil, fmt.Errorf("read module %s: it has no .modinfo", path)
	}
	info, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", path, err)
	}
	for _, field := range strings.Split(string(info), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok && list != "" {
			return strings.Split(strings.ReplaceAll(list, "-", "_"), ","), nil
		}
	}
	return nil, nil
}
