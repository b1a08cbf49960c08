// Package auth decides who may do what in the vault: the one table of roles,
// how passwords are kept and compared, how often somebody may guess, and how
// long a session lasts. It is pure but for the randomness of secrets: it keeps
// no rows and speaks no HTTP. It promises that what the table does not name is
// allowed to nobody. The API calls it.
package auth
