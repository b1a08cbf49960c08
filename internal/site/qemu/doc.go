// Package qemu is the site driver that runs machines with QEMU itself, without
// a management layer: one folder a machine, one QEMU process a running machine.
//
// It promises what site.Driver, site.BootFromView and site.Capturer promise.
// QEMU processes outlive the process that started them and are found again by
// the folder they serve; nothing but the datastore is needed to go on.
//
// Layout of a datastore:
//
//	accel.json                  which accelerator was proven to work, and with what
//	networks.json               the site's networks (see Network); optional
//	locks/                      advisory locks, one a machine or test network
//	machines/NAME/machine.json  the record: definition, flags, recovery in progress
//	machines/NAME/DISK.raw      a disk's content
//	machines/NAME/DISK.overlay  writes of a machine that runs on a view (qcow2)
//	machines/NAME/nvram.fd      UEFI variables
//	machines/NAME/command       the command line of the newest start
//	machines/NAME/console.log   what the guest wrote to its serial console, all runs
//	machines/NAME/console.from  where in it the present run begins
//	machines/NAME/qemu.log, qemu.pid, qmp.sock, rescue.sock, admin.sock, console.sock
//
// The gateway is the only caller. Linux only.
package qemu
