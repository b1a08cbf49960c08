package dr

// Firmware is what a machine starts with.
type Firmware string

// The kinds of firmware.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// Definition is everything needed to build a machine apart from the content
// of its disks. A site driver keeps it with the machine; the journal keeps a
// version of it with the stream, so that a recovery uses the definition of its
// moment.
type Definition struct {
	Name MachineName `json:"name"`
	// UUID is the machine's SMBIOS identity; it stays the same on both sites.
	UUID      string   `json:"uuid"`
	CPUs      int      `json:"cpus"`
	MemoryMiB int      `json:"memoryMiB"`
	Firmware  Firmware `json:"firmware"`
	// NVRAM is the content of the UEFI variable store; nil with BIOS.
	NVRAM []byte `json:"nvram,omitempty"`
	// MachineType is the emulated board, such as "q35".
	MachineType string     `json:"machineType"`
	NICs        []NIC      `json:"nics,omitempty"`
	Disks       []DiskSpec `json:"disks"`
	// Label is the name that the site's hypervisor shows; empty: Name.
	Label string `json:"label,omitempty"`
	// BootOrder lists disks, first to be tried first; those that it leaves
	// out follow in the order of Disks.
	BootOrder []DiskID `json:"bootOrder,omitempty"`
	// Graphics is the emulated display, such as "VGA"; empty: none, the
	// machine has a serial console alone.
	Graphics string `json:"graphics,omitempty"`
	// Replaced is what the target settings of the site where the machine
	// is now changed; the way back restores it.
	Replaced *Replaced `json:"replaced,omitempty"`
}

// Shape is the part of a definition that target settings may change.
type Shape struct {
	Label     string   `json:"label,omitempty"`
	CPUs      int      `json:"cpus"`
	MemoryMiB int      `json:"memoryMiB"`
	BootOrder []DiskID `json:"bootOrder,omitempty"`
	NICs      []NIC    `json:"nics,omitempty"`
}

// Shape returns the definition's.
func (d Definition) Shape() Shape {
	return Shape{Label: d.Label, CPUs: d.CPUs, MemoryMiB: d.MemoryMiB, BootOrder: d.BootOrder, NICs: d.NICs}
}

// Replaced is a definition's shape before target settings were applied, and
// after: what is no longer as it was set was changed by hand meanwhile.
type Replaced struct {
	Was Shape `json:"was"`
	Set Shape `json:"set"`
}

// NIC is one network card.
type NIC struct {
	MAC string `json:"mac"`
	// Network is the name of a network of the site; a card whose network is
	// empty is not connected.
	Network string `json:"network"`
	// Model is the emulated card, such as "virtio-net-pci".
	Model string `json:"model"`
	// Address is handed to the guest, whose agent sets it at boot; nil leaves
	// the guest's own configuration alone.
	Address *Address `json:"address,omitempty"`
}

// Address is the network configuration of one card.
type Address struct {
	// IPs are in CIDR notation: "192.0.2.7/24", "2001:db8::7/64".
	IPs []string `json:"ips"`
	// Gateways are default gateways, at most one of each family.
	Gateways []string `json:"gateways,omitempty"`
	// DNS lists name servers.
	DNS []string `json:"dns,omitempty"`
}

// DiskSpec describes one disk of a machine; order in the slice is boot order.
type DiskSpec struct {
	ID DiskID `json:"id"`
	// Bus is "virtio", "scsi" or "sata".
	Bus    string `json:"bus"`
	Serial string `json:"serial,omitempty"`
	// SizeBytes is a multiple of 512.
	SizeBytes int64 `json:"sizeBytes"`
	// ReadOnly disks and CD-ROMs are not replicated.
	ReadOnly bool `json:"readOnly,omitempty"`
}

// GroupDisk is one row of a group's disk table. Streams and journals name a
// disk by its index in that table.
type GroupDisk struct {
	Machine   MachineName `json:"machine"`
	Disk      DiskID      `json:"disk"`
	SizeBytes int64       `json:"sizeBytes"`
}

// Direction says which way a group's writes flow relative to its home site.
type Direction string

// The directions.
const (
	// Forward is from the home site to the recovery site.
	Forward Direction = "forward"
	// Back is from the recovery site to the home site.
	Back Direction = "back"
)

// Opposite returns the other direction.
func (d Direction) Opposite() Direction {
	if d == Forward {
		return Back
	}
	return Forward
}
