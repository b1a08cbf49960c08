package portal

import (
	"testing"
)

// TestPortalEveryPage: each page that the navigation names is there, for those
// who see with eyes and those who do not, and what it says can be done is done.
func TestPortalEveryPage(t *testing.T) {
	_, p, _ := ready(t)
	for path, title := range map[string]string{
		"/jobs": "Jobs", "/groups": "Groups", "/groups/web": "web", "/plans": "Recovery plans", "/events": "Events",
		"/policies": "Policies", "/policies/default": "default", "/mappings": "Networks", "/users": "Users", "/tokens": "Tokens",
		"/audit": "Audit log", "/settings": "Settings", "/account": "Account", "/gateways/gw-home": "gw-home", "/gateways/gw-cloud?check=1": "gw-cloud",
		"/items/web/failover": "Failover of web",
	} {
		p.Open(path)
		p.Heading(title)
		look(t, p)
	}
	p.Excuse("status of 40[09]") // what is wrong is refused

	p.Open("/policies")
	p.Fill("Name", "gold")
	p.Click("Add and change it")
	p.Heading("gold")
	p.Fill("RPO threshold", "0")
	p.Click("Save")
	p.Find("alert", "").Expect("What to do")
	p.Fill("RPO threshold", "60")
	p.Click("Save")
	p.With("row", "gold").Expect("1 min")

	p.Open("/groups/web")
	p.Choose("Policy of the group", "gold")
	p.Click("Change the policy")
	p.Find("region", "Status").Expect("gold")
	p.Open("/policies/gold")
	p.Click("Delete gold")
	p.Find("alert", "").Expect("gold")

	p.Open("/users")
	p.Fill("Name", "bob")
	p.Choose("Role", "operator")
	p.Fill("Password", "short")
	p.Click("Add the user")
	p.Find("alert", "").Expect("12")
	p.Fill("Name", "bob")
	p.Fill("Password", password)
	p.Click("Add the user")
	p.With("row", "bob").Expect("operator")

	p.Open("/tokens")
	p.Fill("Name", "nightly")
	p.Click("Make the token")
	p.Find("region", "Secret of nightly").Expect("rbt_")
	p.Click("Delete nightly")
	p.Find("row", "nightly").Gone()

	p.Open("/settings")
	p.Fill("Test failover", "90")
	p.Click("Save the limits")
	p.Expect("The limits are saved")
	p.Open("/settings")
	if got := p.Find("spinbutton", "Test failover").Value(); got != "90" {
		t.Errorf("the limit is %q after it was saved", got)
	}

	p.Open("/audit")
	p.With("row", "user/bob").Expect("create-user", "alice", "portal")
}
