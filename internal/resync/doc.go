// Package resync makes the standby of a group equal to its source, given what
// the standby has. First copy, re-synchronisation after a break, reprotect and
// failback to the original disks are this one algorithm; Verify is the same
// comparison without sending. The source half (Syncer) runs in the capture
// process, beside the sequencer; the standby half (Standby) answers hashes of
// the journal's head view.
//
// # The algorithm
//
// The disks are walked in windows of 1 MiB. Of each window the parts that are
// to be looked at (all, or what the bitmaps name) are hashed in leaves of
// 64 KiB on both sides; where a leaf differs, its 4 KiB blocks are compared,
// and the blocks that differ are sent, zeroes as zero entries. A standby that
// is known to be empty is not asked: holes and zeroes are left out and the rest
// is sent.
//
// # Live writes
//
// The guests go on writing. Every live write passes through the sequencer and
// has its number before the guest sees it complete; the hypervisor writes the
// source disk first and the sequencer second, and serialises writes that
// overlap. A window is *in flight* from BeginRange, before its first byte is
// read, until CommitRange has given its pieces their numbers. Inflight
// remembers which parts of it live writes touched in between, and those parts
// are not sent. The record gets its number in the same critical section that
// subtracts, so no live write falls between.
//
// Why the standby ends up equal. Let b be the sequencer's number at
// BeginRange, c the number of the record (or the moment at which the window
// was found equal), and x a byte of the window.
//
//   - A live write touched x with b < n < c: x is not in the record. The
//     standby applies n, and n is at least as new as anything that was read.
//   - A live write touched x last with n <= b: it was on the source before the
//     read began, so the read saw it (or something newer, below). The standby
//     applies n anyway. Whether x is in the record or not, the standby shows
//     the same content after c.
//   - No live write up to c touched x: the standby's x does not change through
//     live writes at all, so it makes no difference how far the head view was
//     when it was hashed. Equal hashes mean equal x; else x is sent.
//   - The read saw a write that has no number yet (on the source already,
//     still on its way to the sequencer): its number will be > c, so the
//     standby applies it after the record. Between c and n the standby shows
//     all, some or none of it. That is content that the source's disk itself
//     shows after a power cut, because the guest has not seen the write
//     complete. So a point after the end marker is crash-consistent.
//
// Therefore a head view that lags behind b can only make a window look
// different that will be equal: that costs bytes, never correctness. To save
// the bytes a request carries b and the standby waits, a bounded time, until
// its head view shows b. The one thing that may never happen is a live write
// that Inflight is not told of, or told of outside the critical section that
// numbers it.
//
// The end marker gets its number after the last window. Broken compare
// connections are dialled again and the window is asked again while it stays
// in flight; a broken stream is the sender's affair (package link). What was
// done is kept: Remaining names what is left, within the epoch exactly, and a
// new epoch compares again but sends nothing twice that arrived.
//
// Callers: capture (Syncer, Inflight), gateway (Standby, Verify through
// capture).
package resync
