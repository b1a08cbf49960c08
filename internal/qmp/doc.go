// Package qmp speaks the QEMU Machine Protocol to a running QEMU or
// qemu-storage-daemon over a Unix socket: typed commands, transactions,
// out-of-band commands and events.
//
// A Client is one connection; a Monitor dials when needed and dials again after
// a broken connection. Both serve any number of goroutines. Neither ever sends
// a command twice: after an error of the connection the caller cannot know
// whether the command ran, and must ask before it repeats it.
//
// A monitor socket of QEMU talks to one client at a time; a second one that
// connects waits, unanswered, until the first has gone. Keep one Monitor for a
// socket.
//
// The package is a leaf: it knows nothing of disaster recovery and anyone may
// import it. The protocol is QEMU's docs/interop/qmp-spec.txt.
package qmp
