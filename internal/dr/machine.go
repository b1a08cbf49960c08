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
}

// NIC is one network card.
type NIC struct {
	MAC string `json:"mac"`
	// Network is the name of a network of the site.
	Network string `json:"network"`
	// Model is the emulated card, such as "virtio-net-pci".
	Model string `json:"model"`
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
