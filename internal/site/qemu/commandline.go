package qemu

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"rebound/internal/dr"
	"rebound/internal/site"
)

// Names of block nodes. A disk's raw content is the node with the disk's own
// name, for ever; while a machine runs on a view the guest's device is on the
// overlay node instead, until commit pivots it.
func rawNode(id dr.DiskID) string     { return string(id) }
func overlayNode(id dr.DiskID) string { return string(id) + "-overlay" }
func viewNode(id dr.DiskID) string    { return string(id) + "-view" }
func commitNode(id dr.DiskID) string  { return string(id) + "-commit" }

// object is a JSON option of QEMU.
type object = map[string]any

// launch is all that a command line depends on.
type launch struct {
	dir      string
	def      dr.Definition
	accel    string
	cpu      string
	firmware string // UEFI: the code
	nvram    string // UEFI: the machine's own variable store
	paused   bool
	disks    []launchDisk
	netdevs  []string // options of -netdev, one a card
	macs     []string // of the cards as they are to be, one a card
}

// launchDisk says what a disk's device stands on: raw, or an overlay over raw
// or over a view.
type launchDisk struct {
	spec    dr.DiskSpec
	raw     string         // path; empty: none
	overlay string         // path; empty: none
	view    *site.ViewDisk // nil: none
	direct  bool           // the files take O_DIRECT
	// reconnect is how long, in seconds, reads wait for the view's server.
	reconnect int
}

// args is the command line of a machine. Sockets are named relative to the
// folder, which is QEMU's working directory, because their paths are limited
// to 107 bytes.
func (l *launch) args() []string {
	d := l.def
	args := []string{
		"-name", "guest=" + strings.ReplaceAll(cmp.Or(d.Label, string(d.Name)), ",", ",,"),
		"-nodefaults", "-no-user-config",
		"-display", "none",
		"-machine", cmp.Or(d.MachineType, "q35") + ",usb=off",
		"-accel", accelOption(l.accel),
		"-cpu", l.cpu,
		"-smp", strconv.Itoa(d.CPUs),
		"-m", strconv.Itoa(d.MemoryMiB),
	}
	if d.UUID != "" {
		args = append(args, "-uuid", d.UUID)
	}
	args = append(args,
		"-pidfile", l.dir+"/qemu.pid",
		"-msg", "timestamp=on",
		"-action", "shutdown=pause,panic=none",
		"-boot", "strict=on",
		"-chardev", "socket,id=mon0,path=qmp.sock,server=on,wait=off", "-mon", "chardev=mon0,mode=control",
		"-chardev", "socket,id=mon1,path=rescue.sock,server=on,wait=off", "-mon", "chardev=mon1,mode=control",
		"-chardev", "socket,id=mon2,path=admin.sock,server=on,wait=off", "-mon", "chardev=mon2,mode=control",
		"-chardev", "socket,id=console,path=console.sock,server=on,wait=off,logfile="+consoleLog+",logappend=on", "-serial", "chardev:console",
	)
	if l.paused {
		args = append(args, "-S")
	}
	args = append(args, l.addressArgs()...)
	args = append(args, l.firmwareArgs()...)
	args = append(args, l.diskArgs()...)
	args = append(args, "-object", "rng-random,id=rng0,filename=/dev/urandom",
		"-device", option(object{"driver": "virtio-rng-pci", "rng": "rng0", "addr": pciAddr(2)}))
	args = append(args, l.agentArgs()...)
	if d.Graphics != "" {
		args = append(args, "-device", option(object{"driver": d.Graphics, "id": "graphics", "addr": pciAddr(slotGraphics)}))
	}
	return append(args, l.nicArgs()...)
}

// agentArgs gives the machine the port through which the gateway speaks to the
// guest's agent.
func (l *launch) agentArgs() []string {
	return []string{
		"-chardev", "socket,id=agent,path=" + agentSocket + ",server=on,wait=off",
		"-device", option(object{"driver": "virtio-serial-pci", "id": "ports", "addr": pciAddr(slotAgent), "max_ports": 2}),
		"-device", option(object{"driver": "virtserialport", "bus": "ports.0", "chardev": "agent", "name": agentPort}),
	}
}

func accelOption(accel string) string {
	if accel == "tcg" {
		return "tcg,thread=multi"
	}
	return accel
}

func (l *launch) firmwareArgs() []string {
	if l.def.Firmware != dr.UEFI {
		return nil
	}
	return []string{
		"-blockdev", option(object{"node-name": "pflash0", "driver": "raw", "read-only": true, "file": object{"driver": "file", "filename": l.firmware}}),
		"-blockdev", option(object{"node-name": "pflash1", "driver": "raw", "file": object{"driver": "file", "filename": l.nvram}}),
		"-machine", "pflash0=pflash0,pflash1=pflash1",
	}
}

// PCI places. Fixed ones keep a guest's names of disks and cards when others
// come and go.
const (
	slotSCSI     = 3
	slotSATA     = 4
	slotFirst    = 5 // of virtio disks
	slotLast     = 15
	slotNIC      = 16
	slotLastNIC  = 28
	slotGraphics = 29
	slotAgent    = 30
	sataPorts    = 6 // of one AHCI controller
	maxNICs      = slotLastNIC - slotNIC + 1
	maxSATADisks = sataPorts
)

func pciAddr(slot int) string { return fmt.Sprintf("0x%x", slot) }

func (l *launch) diskArgs() []string {
	var args []string
	buses := map[string]int{}
	for i, disk := range l.disks {
		for _, node := range disk.nodes() {
			args = append(args, "-blockdev", option(node))
		}
		n := buses[disk.spec.Bus]
		buses[disk.spec.Bus]++
		if n == 0 {
			switch disk.spec.Bus {
			case "scsi":
				args = append(args, "-device", option(object{"driver": "virtio-scsi-pci", "id": "scsi", "addr": pciAddr(slotSCSI)}))
			case "sata":
				args = append(args, "-device", option(object{"driver": "ich9-ahci", "id": "sata", "addr": pciAddr(slotSATA)}))
			}
		}
		args = append(args, "-device", option(disk.device(n, bootIndex(l.def, i))))
	}
	return args
}

// bootIndex is the place of a disk in the boot order: the named ones first, the
// others as they stand.
func bootIndex(def dr.Definition, disk int) int {
	if i := slices.Index(def.BootOrder, def.Disks[disk].ID); i >= 0 {
		return i
	}
	place := len(def.BootOrder)
	for _, d := range def.Disks[:disk] {
		if !slices.Contains(def.BootOrder, d.ID) {
			place++
		}
	}
	return place
}

// addressArgs hand the guest the addresses of its cards.
func (l *launch) addressArgs() []string {
	var args []string
	for i, nic := range l.def.NICs {
		if nic.Address != nil {
			card := dr.GuestCard{MAC: l.macs[i], Address: *nic.Address}
			args = append(args, "-smbios", "type=11,value="+strings.ReplaceAll(card.String(), ",", ",,"))
		}
	}
	return args
}

// nodes returns the block nodes of a disk, lowest first.
func (d *launchDisk) nodes() []object {
	var list []object
	if d.raw != "" {
		list = append(list, rawBlockdev(d.spec, d.raw, d.direct))
	}
	if d.view != nil {
		list = append(list, viewBlockdev(*d.view, d.reconnect))
	}
	if d.overlay != "" {
		backing := rawNode(d.spec.ID)
		if d.view != nil {
			backing = viewNode(d.spec.ID)
		}
		list = append(list, overlayBlockdev(d.spec.ID, d.overlay, backing, d.direct))
	}
	return list
}

func rawBlockdev(spec dr.DiskSpec, path string, direct bool) object {
	return object{
		"driver": "raw", "node-name": rawNode(spec.ID), "read-only": spec.ReadOnly,
		"discard": "unmap", "cache": object{"direct": direct},
		"file": fileBlockdev(rawNode(spec.ID)+"-file", path, direct, spec.ReadOnly),
	}
}

// fileBlockdev opens a file as QEMU's own locks allow. With O_DIRECT the host's
// asynchronous I/O works; without, threads do.
func fileBlockdev(node, path string, direct, readOnly bool) object {
	aio := "threads"
	if direct {
		aio = "native"
	}
	return object{
		"driver": "file", "node-name": node, "filename": path, "aio": aio, "read-only": readOnly,
		"discard": "unmap", "cache": object{"direct": direct},
	}
}

func viewBlockdev(v site.ViewDisk, reconnect int) object {
	return object{
		"driver": "nbd", "node-name": viewNode(v.Disk), "read-only": true,
		"server": object{"type": "unix", "path": v.Socket}, "export": v.Export,
		"reconnect-delay": reconnect,
	}
}

// overlayBlockdev is also what blockdev-reopen gets: it must name every option
// again.
func overlayBlockdev(id dr.DiskID, path, backing string, direct bool) object {
	return object{
		"driver": "qcow2", "node-name": overlayNode(id), "discard": "unmap", "cache": object{"direct": direct},
		"file":    fileBlockdev(overlayNode(id)+"-file", path, direct, false),
		"backing": backing,
	}
}

// device returns the guest's side of a disk: the nth of its bus, at place boot
// of the boot order. Its id is the disk's, so that its QOM path names the disk.
func (d *launchDisk) device(n, boot int) object {
	dev := object{"id": string(d.spec.ID), "drive": rawNode(d.spec.ID), "bootindex": boot}
	if d.overlay != "" {
		dev["drive"] = overlayNode(d.spec.ID)
		dev["rerror"], dev["werror"] = "stop", "stop"
	}
	if d.spec.Serial != "" {
		dev["serial"] = d.spec.Serial
	}
	switch d.spec.Bus {
	case "scsi":
		dev["driver"], dev["bus"], dev["scsi-id"] = "scsi-hd", "scsi.0", n
	case "sata":
		dev["driver"], dev["bus"] = "ide-hd", fmt.Sprintf("sata.%d", n)
		if d.spec.ReadOnly {
			dev["driver"] = "ide-cd"
		}
	default:
		dev["driver"] = "virtio-blk-pci"
		if slot := slotFirst + n; slot <= slotLast {
			dev["addr"] = pciAddr(slot)
		}
	}
	return dev
}

func (l *launch) nicArgs() []string {
	var args []string
	for i, nic := range l.def.NICs {
		id := fmt.Sprintf("net%d", i)
		args = append(args, "-netdev", l.netdevs[i], "-device", option(object{
			"driver": cmp.Or(nic.Model, "virtio-net-pci"), "id": "nic" + strconv.Itoa(i), "netdev": id,
			"mac": l.macs[i], "romfile": "", "addr": pciAddr(slotNIC + i),
		}))
	}
	return args
}

// option prints a JSON option; keys come in order, so that lines are stable.
func option(o object) string {
	text, err := json.Marshal(o)
	if err != nil {
		panic("qemu: option cannot be encoded: " + err.Error()) // strings, numbers and booleans only
	}
	return string(text)
}

// takesDirect reports whether a file can be opened past the page cache (tmpfs
// of older kernels cannot).
func takesDirect(path string) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	_ = unix.Close(fd)
	return true
}
