package image

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"unicode/utf16"

	"rebound/internal/dr"
	"rebound/internal/lab/wire"
)

const sector = 512

// Partition is a range of a disk, in bytes.
type Partition struct {
	Offset, Size int64
}

// layout is where things lie on one disk of a guest. Its order is boot, file
// system, ballast or boot, ballast, file system, as the seed has it.
type layout struct {
	index  int
	size   int64
	boot   Partition // Size 0: none
	fs     Partition
	random Partition
	gpt    bool
	label  string // of the file system
	fsUUID string
	diskID string // GPT disk GUID and, its first 4 bytes, MBR signature
	seed   uint64
	name   string
}

// newLayout places the partitions of a guest's disk by its seed.
func newLayout(g Guest, index int) (layout, error) {
	d := layout{
		index: index, gpt: g.Firmware == dr.UEFI, seed: g.Seed,
		label: []string{wire.LabelFirst, wire.LabelSecond}[index],
		name:  fmt.Sprintf("%s/disk%d", g.Config.Name, index),
	}
	r := newRandom(g.Seed, d.name+"/layout")
	d.fsUUID, d.diskID = randomUUID(r), randomUUID(r)
	at := int64(mib)
	place := func(p *Partition, size int64) {
		*p = Partition{Offset: at, Size: size}
		at += size
	}
	if index == 0 {
		place(&d.boot, bootMiB*mib)
	}
	// Up to 4 MiB, in steps of 64 KiB, move what follows.
	at += int64(uint64n(r, 64)) * (64 << 10)
	if uint64n(r, 2) == 0 {
		place(&d.fs, ledgerMiB*mib)
		place(&d.random, int64(g.BallastMiB)*mib)
	} else {
		place(&d.random, int64(g.BallastMiB)*mib)
		place(&d.fs, ledgerMiB*mib)
	}
	d.size = (at+mib-1)/mib*mib + mib // the last MiB holds the second GPT
	return d, nil
}

func (d layout) ballast() Ballast {
	return Ballast{Offset: d.random.Offset, Size: d.random.Size, Seed: d.seed, Name: d.name}
}

// parts returns the partitions in the order of the table.
func (d layout) parts() []Partition {
	if d.boot.Size > 0 {
		return []Partition{d.boot, d.fs, d.random}
	}
	return []Partition{d.fs, d.random}
}

func (d layout) writeTable(f *os.File) error {
	if d.gpt {
		return d.writeGPT(f)
	}
	return d.writeMBR(f)
}

// MBR partition types.
const (
	mbrFAT16LBA = 0x0e
	mbrLinux    = 0x83
	mbrData     = 0xda
	mbrGPT      = 0xee
)

func mbrEntry(b []byte, active bool, kind byte, p Partition) {
	if active {
		b[0] = 0x80
	}
	// Addresses by cylinder, head and sector are out of use: their maximum.
	copy(b[1:4], []byte{0xfe, 0xff, 0xff})
	b[4] = kind
	copy(b[5:8], []byte{0xfe, 0xff, 0xff})
	binary.LittleEndian.PutUint32(b[8:], uint32(p.Offset/sector))
	binary.LittleEndian.PutUint32(b[12:], uint32(p.Size/sector))
}

// mbrCode is syslinux's boot code: it starts the active partition.
const mbrCode = "/usr/lib/syslinux/mbr/mbr.bin"

func (d layout) writeMBR(f *os.File) error {
	var b [sector]byte
	kinds := []byte{mbrLinux, mbrData}
	if d.boot.Size > 0 {
		code, err := os.ReadFile(mbrCode)
		if err != nil {
			return fmt.Errorf("read boot code (package syslinux-common): %w", err)
		}
		if len(code) > 440 {
			return fmt.Errorf("boot code is %d bytes, at most 440 fit", len(code))
		}
		copy(b[:], code)
		kinds = []byte{mbrFAT16LBA, mbrLinux, mbrData}
	}
	id, err := guidBytes(d.diskID)
	if err != nil {
		return err
	}
	copy(b[440:444], id[:4])
	for i, p := range d.parts() {
		mbrEntry(b[446+16*i:], kinds[i] == mbrFAT16LBA, kinds[i], p)
	}
	b[510], b[511] = 0x55, 0xaa
	if _, err := f.WriteAt(b[:], 0); err != nil {
		return fmt.Errorf("write partition table: %w", err)
	}
	return nil
}

// Partition type GUIDs (UEFI 2.10 section 5.3.3, and the Discoverable
// Partitions Specification for Linux data).
const (
	typeESP   = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	typeLinux = "0fc63daf-8483-4772-8e79-3d69d8477de4"
)

const (
	gptEntries   = 128
	gptEntrySize = 128
	gptSectors   = gptEntries * gptEntrySize / sector
)

// writeGPT writes both copies of a GUID partition table (UEFI 2.10 section 5).
func (d layout) writeGPT(f *os.File) error {
	var mbr [sector]byte
	mbrEntry(mbr[446:], false, mbrGPT, Partition{Offset: sector, Size: d.size - sector})
	mbr[510], mbr[511] = 0x55, 0xaa
	entries, err := d.gptEntries()
	if err != nil {
		return err
	}
	last := uint64(d.size/sector) - 1
	first, err := d.gptHeader(entries, 1, last, 2)
	if err != nil {
		return err
	}
	second, err := d.gptHeader(entries, last, 1, last-gptSectors)
	if err != nil {
		return err
	}
	for _, w := range []struct {
		data []byte
		at   uint64
	}{{mbr[:], 0}, {first, 1}, {entries, 2}, {entries, last - gptSectors}, {second, last}} {
		if _, err := f.WriteAt(w.data, int64(w.at)*sector); err != nil {
			return fmt.Errorf("write partition table: %w", err)
		}
	}
	return nil
}

func (d layout) gptEntries() ([]byte, error) {
	table := make([]byte, gptEntries*gptEntrySize)
	names, types := []string{d.label, "ballast"}, []string{typeLinux, typeLinux}
	if d.boot.Size > 0 {
		names, types = append([]string{"boot"}, names...), append([]string{typeESP}, types...)
	}
	r := newRandom(d.seed, d.name+"/gpt")
	for i, p := range d.parts() {
		e := table[i*gptEntrySize:]
		if err := d.gptEntry(e, types[i], names[i], p, r); err != nil {
			return nil, err
		}
	}
	return table, nil
}

func (d layout) gptEntry(e []byte, kind, name string, p Partition, r *rand.ChaCha8) error {
	for i, id := range []string{kind, randomUUID(r)} {
		g, err := guidBytes(id)
		if err != nil {
			return err
		}
		copy(e[16*i:], g[:])
	}
	le := binary.LittleEndian
	le.PutUint64(e[32:], uint64(p.Offset/sector))
	le.PutUint64(e[40:], uint64((p.Offset+p.Size)/sector)-1)
	for i, c := range utf16.Encode([]rune(name)) {
		le.PutUint16(e[56+2*i:], c)
	}
	return nil
}

func (d layout) gptHeader(entries []byte, self, other, table uint64) ([]byte, error) {
	h := make([]byte, sector)
	le := binary.LittleEndian
	copy(h, "EFI PART")
	le.PutUint32(h[8:], 0x00010000)
	le.PutUint32(h[12:], 92)
	le.PutUint64(h[24:], self)
	le.PutUint64(h[32:], other)
	le.PutUint64(h[40:], 2+gptSectors)
	le.PutUint64(h[48:], uint64(d.size/sector)-2-gptSectors)
	id, err := guidBytes(d.diskID)
	if err != nil {
		return nil, err
	}
	copy(h[56:72], id[:])
	le.PutUint64(h[72:], table)
	le.PutUint32(h[80:], gptEntries)
	le.PutUint32(h[84:], gptEntrySize)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	return h, nil
}

// guidBytes encodes a GUID as UEFI stores it: the first three groups little
// endian.
func guidBytes(s string) (g [16]byte, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		return g, fmt.Errorf("GUID %q: want 32 hexadecimal digits", s)
	}
	for i, from := range []int{3, 2, 1, 0, 5, 4, 7, 6} {
		g[i] = b[from]
	}
	copy(g[8:], b[8:])
	return g, nil
}

// Partitions reads the partition table of a disk, MBR or GPT.
func Partitions(disk io.ReaderAt) ([]Partition, error) {
	var b [2 * sector]byte
	if _, err := disk.ReadAt(b[:], 0); err != nil {
		return nil, fmt.Errorf("read partition table: %w", err)
	}
	if b[510] != 0x55 || b[511] != 0xaa {
		return nil, errors.New("read partition table: the disk has none")
	}
	le := binary.LittleEndian
	var parts []Partition
	for e := b[446:510]; len(e) > 0; e = e[16:] {
		if e[4] == mbrGPT {
			return gptPartitions(disk, b[sector:])
		}
		if e[4] != 0 {
			parts = append(parts, Partition{int64(le.Uint32(e[8:])) * sector, int64(le.Uint32(e[12:])) * sector})
		}
	}
	return parts, nil
}

func gptPartitions(disk io.ReaderAt, header []byte) ([]Partition, error) {
	le := binary.LittleEndian
	h := append([]byte(nil), header[:92]...)
	want := le.Uint32(h[16:])
	clear(h[16:20])
	if string(h[:8]) != "EFI PART" || crc32.ChecksumIEEE(h) != want {
		return nil, errors.New("read partition table: the GPT header is damaged")
	}
	if le.Uint32(h[80:]) != gptEntries || le.Uint32(h[84:]) != gptEntrySize {
		return nil, errors.New("read partition table: the GPT has an unusual size")
	}
	table := make([]byte, gptEntries*gptEntrySize)
	if _, err := disk.ReadAt(table, int64(le.Uint64(h[72:]))*sector); err != nil {
		return nil, fmt.Errorf("read partition table: %w", err)
	}
	if crc32.ChecksumIEEE(table) != le.Uint32(h[88:]) {
		return nil, errors.New("read partition table: the GPT entries are damaged")
	}
	var parts []Partition
	for e := table; len(e) > 0; e = e[gptEntrySize:] {
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if first != 0 && last >= first {
			parts = append(parts, Partition{int64(first) * sector, int64(last-first+1) * sector})
		}
	}
	return parts, nil
}
