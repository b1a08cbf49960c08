package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// run executes a tool and puts what it said into the error.
func run(ctx context.Context, name string, args ...string) error {
	return runIn(ctx, "", name, args...)
}

func runIn(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// copySparse copies a file into an image at an offset; zero blocks stay holes.
func copySparse(dst *os.File, off int64, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("open boot partition: %w", err)
	}
	defer in.Close()
	buf, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(in, buf)
		if n > 0 && !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := dst.WriteAt(buf[:n], off); err != nil {
				return fmt.Errorf("write boot partition: %w", err)
			}
		}
		off += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read boot partition: %w", err)
		}
	}
}

// cached returns the path of a cached file or directory, which make has to
// produce at the path it is given when it is not there. Several processes may
// ask at once; the first to finish wins.
func (b *Builder) cached(name string, build func(tmp string) error) (string, error) {
	path := filepath.Join(b.cfg.CacheDir, name)
	if _, err := os.Stat(path); err == nil {
		now := time.Now()
		return path, os.Chtimes(path, now, now) // it is in use: see prune
	}
	b.prune()
	dir, err := os.MkdirTemp(b.cfg.CacheDir, ".making-")
	if err != nil {
		return "", fmt.Errorf("make cache entry: %w", err)
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "entry")
	if err := build(tmp); err != nil {
		return "", fmt.Errorf("make %s: %w", name, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		if _, statErr := os.Stat(path); statErr == nil {
			return path, nil // somebody else was first
		}
		return "", fmt.Errorf("keep %s: %w", name, err)
	}
	return path, nil
}

// cacheLife is how long what nobody used stays in the cache.
const cacheLife = 7 * 24 * time.Hour

// prune removes boot partitions and binaries that nobody used for cacheLife;
// the kernel stays. What cannot be removed costs room only.
func (b *Builder) prune() {
	for _, pattern := range []string{"boot-*", "init-*"} {
		paths, _ := filepath.Glob(filepath.Join(b.cfg.CacheDir, pattern)) // the pattern is good
		for _, p := range paths {
			if st, err := os.Stat(p); err == nil && time.Since(st.ModTime()) > cacheLife {
				_ = os.RemoveAll(p)
			}
		}
	}
}
