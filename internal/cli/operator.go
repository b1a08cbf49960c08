package cli

import "github.com/spf13/cobra"

// The groups of commands in "rebound --help".
const (
	groupLook    = "look"
	groupProtect = "protect"
	groupRecover = "recover"
	groupAdmin   = "admin"
	groupRoles   = "roles"
)

// addOperator adds the commands that speak the vault's REST API, and sorts all
// commands into groups for the help.
func (a *app) addOperator(root *cobra.Command) {
	root.AddGroup(
		&cobra.Group{ID: groupLook, Title: "Look:"},
		&cobra.Group{ID: groupProtect, Title: "Protect:"},
		&cobra.Group{ID: groupRecover, Title: "Recover and come home:"},
		&cobra.Group{ID: groupAdmin, Title: "Set up:"},
		&cobra.Group{ID: groupRoles, Title: "Roles and tools:"},
	)
	add := func(id string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = id
		}
		root.AddCommand(cmds...)
	}
	for _, c := range root.Commands() {
		c.GroupID = groupRoles
	}
	add(groupLook, a.newStatus(), a.newHealth(), a.newCheck(), a.newItem(), a.newGroup(), a.newPoint(), a.newJob(), a.newEvent(), a.newAudit())
	add(groupProtect, a.newMachine(), a.newPause(), a.newResume(), a.newResync(), a.newVerify(), a.newDisable())
	add(groupRecover, a.newFailover(), a.newChangePoint(), a.newCommit(), a.newCompleteMigration(), a.newUndo(), a.newReprotect(), a.newFailback(), a.newTest(), a.newTestCleanup())
	add(groupAdmin, a.newLogin(), a.newSite(), a.newPolicy(), a.newPlan(), a.newMapping(), a.newApply(), a.newExport(), a.newUser(), a.newToken(), a.newWebhook(), a.newSupportBundle(), a.newCompletion())
	root.SetHelpCommandGroupID(groupRoles)
	root.AddCommand(newExitCodesTopic())
	for _, c := range root.Commands() {
		switch c.Name() {
		case "gateway":
			c.AddCommand(a.newGatewayList(), a.newGatewayShow(), a.newGatewayEnroll(), a.newGatewayRevoke())
			c.GroupID = groupAdmin
		case "agent":
			c.AddCommand(a.newAgentEnroll(), a.newAgentRevoke())
		case "vault":
			c.AddCommand(a.newVaultAdopt())
		}
	}
}

// newExitCodesTopic is "rebound help exit-codes".
func newExitCodesTopic() *cobra.Command {
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodesHelp}
}
