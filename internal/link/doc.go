// Package link is the transport between the two sites of a replication group:
// the active site dials, the standby listens. A *stream* carries frames of
// package segment in one direction and acknowledgements in the other; a
// *compare* connection answers hashes of what the standby has.
//
// What it promises:
//
//   - Both ends hold certificates of the same vault (TLS 1.3, mutual; the
//     configuration comes from package identity), agree on a protocol version
//     and on the group's generation before anything else is said.
//   - The standby's sink receives exactly the entries of an epoch in order,
//     from the one after the durable one, without gap and without repetition,
//     whatever happens to connections. A frame that is damaged, of another
//     generation or epoch, or not the successor of the one before is refused
//     and ends the connection; the sink never sees it.
//   - At most one stream of a group is open. A newer connection replaces the
//     older one; the older one's sink is closed before the newer one's is
//     opened. Once Fence has returned, nothing of an older generation is taken.
//   - An acknowledgement names what is durable at the standby, nothing else.
//   - The sender is never ahead of the standby by more than the credits, in
//     bytes and in frames. A dead peer is noticed within DeadAfter.
//   - Once a stream stands, sending and receiving frames allocates nothing.
//
// What it does not do: keep frames (the capture's ring does), decide who may
// replicate what (the Handler does), or store anything.
//
// Callers: capture (Sender, DialCompare), gateway (Server, Handler). The
// bytes on the wire are described in docs/link-protocol.md.
package link
