// Package source is a gateway's process-server role for one replication group:
// it keeps a capture process running, the members attached to it, their
// bitmaps on, and the stream to the standby going, by itself, until it is told
// to stop. What it needs for that is on disk, so a restarted gateway goes on.
//
// The loop of a group (runner.go) makes attempts. An attempt opens an epoch with
// the standby, begins bitmaps, attaches every member, synchronises what the
// standby may lack (plan.go), and then watches: beacons, markers, rotation of
// the bitmaps (bitmaps.go). When anything breaks, the attempt ends, all members
// are detached, the bitmaps remember, and the next attempt begins.
//
// Package gateway is its only caller.
package source
