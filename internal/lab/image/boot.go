package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"rebound/internal/dr"
)

// cmdline is the guests' kernel command line. It leaves out what an emulated
// processor spends a third of its boot on and a lab guest does not need:
// address randomisation, mitigations against speculation, self-tests of
// ciphers, trace events, IPv6. panic=-1 makes a broken guest restart at once.
const cmdline = "console=ttyS0 quiet loglevel=4 panic=-1 nokaslr mitigations=off " +
	"random.trust_cpu=on no_timer_check tsc=reliable selinux=0 apparmor=0 audit=0 " +
	"cryptomgr.notests ipv6.disable=1 initcall_blacklist=init_kprobe_trace,crypto_kdf108_init,load_system_certificate_list"

// systemdBoot is the boot loader of UEFI guests.
const systemdBoot = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"

// bootPartition returns the cached FAT image that guests of a firmware start
// from. It holds nothing of a single guest.
func (b *Builder) bootPartition(ctx context.Context, fw dr.Firmware) (string, error) {
	kernel, err := b.kernel(ctx)
	if err != nil {
		return "", err
	}
	initBinary, err := b.initBinary(ctx)
	if err != nil {
		return "", err
	}
	agent, err := b.guestAgent(ctx)
	if err != nil {
		return "", err
	}
	sum, err := hashFiles(append([]string{initBinary}, slices.Sorted(maps.Values(agent))...)...)
	if err != nil {
		return "", err
	}
	key := sha256.Sum256([]byte(sum + freezeHook + cmdline + fmt.Sprint(bootMiB) + recipe))
	name := fmt.Sprintf("boot-%s-%s-%s.fat", fw, kernel.release, hex.EncodeToString(key[:6]))
	return b.cached(name, func(tmp string) error {
		b.cfg.Logger.Info("making boot partition", "firmware", fw, "kernel", kernel.release)
		initramfs := filepath.Join(filepath.Dir(tmp), "initrd.img")
		if err := writeInitramfs(initramfs, kernel, initBinary, agent); err != nil {
			return err
		}
		return makeBoot(ctx, fw, tmp, kernel.image, initramfs)
	})
}

// recipe is changed when the way in which boot partitions are made changes.
const recipe = "3"

// makeBoot makes a FAT16 file system at path with kernel, initramfs and boot
// loader. The hidden sectors are those before the partition, at 1 MiB.
func makeBoot(ctx context.Context, fw dr.Firmware, path, kernel, initramfs string) error {
	if err := truncateNew(path, bootMiB*mib); err != nil {
		return err
	}
	if err := run(ctx, "mkfs.fat", "-F", "16", "-s", "8", "-h", fmt.Sprint(mib/sector), "-n", "REBOUND", "-i", "52424e44", path); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	put := func(name, content string) error {
		file := filepath.Join(dir, "text")
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		return run(ctx, "mcopy", "-i", path, file, "::"+name)
	}
	if err := run(ctx, "mcopy", "-i", path, kernel, "::vmlinuz"); err != nil {
		return err
	}
	if err := run(ctx, "mcopy", "-i", path, initramfs, "::initrd.img"); err != nil {
		return err
	}
	if fw == dr.BIOS {
		if err := put("syslinux.cfg", "DEFAULT linux\nPROMPT 0\nTIMEOUT 0\nLABEL linux\n  LINUX vmlinuz\n  INITRD initrd.img\n  APPEND "+cmdline+"\n"); err != nil {
			return err
		}
		return run(ctx, "syslinux", "--install", path)
	}
	if err := run(ctx, "mmd", "-i", path, "::EFI", "::EFI/BOOT", "::loader", "::loader/entries"); err != nil {
		return err
	}
	if err := run(ctx, "mcopy", "-i", path, systemdBoot, "::EFI/BOOT/BOOTX64.EFI"); err != nil {
		return err
	}
	if err := put("loader/loader.conf", "default linux.conf\ntimeout 0\neditor no\n"); err != nil {
		return err
	}
	return put("loader/entries/linux.conf", "title Rebound lab guest\nlinux /vmlinuz\ninitrd /initrd.img\noptions "+cmdline+"\n")
}

func truncateNew(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return fmt.Errorf("size %s: %w", path, err)
	}
	return nil
}

// initBinary returns the path of the guests' /init, built when not given.
func (b *Builder) initBinary(ctx context.Context) (string, error) {
	if b.cfg.Init != "" {
		return b.cfg.Init, nil
	}
	out := filepath.Join(b.cfg.CacheDir, fmt.Sprintf("init-%d", os.Getpid()))
	if err := BuildInit(ctx, b.cfg.ModuleDir, out); err != nil {
		return "", err
	}
	defer os.Remove(out)
	sum, err := hashFiles(out)
	if err != nil {
		return "", err
	}
	return b.cached("init-"+sum[:16], func(tmp string) error { return os.Rename(out, tmp) })
}

// BuildInit builds the guests' /init, a static binary, from the module at
// moduleDir into the file out.
func BuildInit(ctx context.Context, moduleDir, out string) error {
	return runIn(ctx, moduleDir, "env", "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64",
		"go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, "rebound/internal/lab/guest/init")
}

// hashFiles returns the SHA-256 over the content of files.
func hashFiles(paths ...string) (string, error) {
	h := sha256.New()
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return "", fmt.Errorf("hash %s: %w", p, err)
		}
		_, err = io.Copy(h, f)
		_ = f.Close()
		if err != nil {
			return "", fmt.Errorf("hash %s: %w", p, err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
