// Package standby is a gateway's master-target role: it keeps the journals of
// the groups whose machines run at another site, takes their streams, serves
// views of them to machines that are started here, and hands the bases over to
// those machines at a commit.
//
// It promises: what it acknowledged is durable; a frame of an older generation
// is never taken once Seal returned; views that machines run on are served
// again as soon as the process is back; a command that was cut short is
// finished by its repetition. Package gateway is its only caller.
package standby
