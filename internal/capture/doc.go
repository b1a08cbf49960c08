// Package capture is the source-side data path of one replication group: it
// takes the writes of all disks of all members over NBD, gives each its number,
// keeps them in a bounded ring in memory and ships them to the standby. It runs
// in a process of its own, does no disk I/O and waits for nothing without a
// bound, because a hypervisor stalls with it.
//
// What it promises:
//
//   - A write is acknowledged only after it has its number, so every prefix of
//     the numbered stream is crash-consistent over all disks of the group.
//   - Before the first error reply or closed socket of its own, and as soon as
//     a peer closes a socket, the stream is sealed with a break entry. After
//     that everything is answered with success and nothing is recorded.
//   - A beacon is appended only if every disk's socket was open and the stream
//     unbroken from the probe to its confirmation.
//   - What the standby has not made durable stays in the ring. When there is
//     no room, acknowledgements are delayed within limits; then the stream is
//     broken rather than the guest stalled.
//
// The runtime directory of a group holds two Unix sockets, "control.sock"
// (newline-delimited JSON, see Request) and "nbd.sock" (the exports, one a
// disk), and "capture.lock", which the one process that serves the directory
// holds. Nothing in it outlives the process but names. The gateway is the only
// caller: through Client and Start; the command line calls Run.
package capture
