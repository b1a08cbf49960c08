// Package spool keeps a group's stream on disk at its source while the link to
// the standby is slow or down, and delivers it in order when it can. It stands
// between the capture's ring, which is small and in memory, and tracking by
// bitmaps, which loses the history of the time: as long as an outage fits into
// the spool, recovery points go on being made and none is missing afterwards.
//
// The capture process does no disk I/O, so the spool lives in the gateway. It
// is a receiver of package link on a Unix socket (the inlet) and a sender of
// package link towards the standby (the outlet), with an append-only store of
// the frames between them:
//
//	ring --inlet--> store --outlet--> standby
//
// What it promises:
//
//   - What the inlet has acknowledged survives a crash at any moment and is
//     delivered to the standby in order, without gap and without repetition, or
//     the spool says that it cannot.
//   - It holds entries of one epoch. Those of another are refused until the
//     first are delivered or discarded.
//   - It never takes more than its limits: then it refuses frames, which the
//     capture sees as a full ring.
//
// Frames are stored as they came, in files like those of a journal's redo
// (internal/segment/FORMAT.md). The gateway's source side is the caller.
package spool
