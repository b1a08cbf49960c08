// Package identity says who is who between Rebound's processes. The vault is
// a certificate authority; gateways, agents and the vault itself hold
// certificates whose one URI names them: rebound://<vault>/<role>/<name>.
//
// It promises that a TLS connection made with its configurations is TLS 1.3,
// that both ends hold certificates of the same vault, and that PeerOf tells
// the other end's role and name. It keeps no state besides the files that
// Bundle and CA are asked to read and write. Every networked package may
// import it.
package identity
