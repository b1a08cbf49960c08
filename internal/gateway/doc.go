// Package gateway is Rebound's data-plane process on a site, put together from
// the packages below it. As process server (package source) it captures the
// writes of a group's machines and sends them; as master target (package
// standby) it keeps the journals of groups whose machines run elsewhere. Which
// of the two it is for a group is data, and changes with every failover.
//
// It promises: what the vault asked for is done once and survives a restart
// (commands, specs and views are on disk before they are answered); guests are
// never harmed by a gateway that dies; a site that was failed over while it was
// away fences itself before it does anything else. Its caller is the command
// line ("rebound gateway serve") and the lab.
package gateway
