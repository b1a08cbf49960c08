// Package adopt finds out from what gateways keep how a replication group
// stands: to rebuild the inventory of a vault that was lost, and to mend that
// of one that was restored from a backup. It is pure: it decides, others write.
//
// It promises that the gateways' word wins over the vault's, that the
// generation never falls behind what any of them knows, and that it makes no
// site active at which nothing shows that it is.
package adopt
