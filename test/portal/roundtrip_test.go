package portal

import (
	"testing"

	"rebound/internal/control/controltest"
	"rebound/internal/dr"
	"rebound/test/portal/browser"
)

// ready is a vault with two sites, their gateways, and the machine web, which a
// person has made and protected through the portal alone.
func ready(t *testing.T) (*place, *browser.Page, map[dr.SiteID]*controltest.Gateway) {
	t.Helper()
	v := newPlace(t)
	p := browser.Start(t).NewPage(t, v.url)
	p.Open("/first-run")
	p.Fill("First token", v.firstToken())
	p.Fill("Your name", "alice")
	p.Fill("Password", password)
	p.Fill("Password again", password)
	p.Click("Make the account")
	p.Heading("First steps")
	gateways := map[dr.SiteID]*controltest.Gateway{}
	for _, at := range []dr.SiteID{"home", "cloud"} {
		p.Open("/sites")
		p.Fill("Name", string(at))
		p.Click("Add site")
		p.With("row", string(at)).Expect("Enrol one")
		p.Open("/gateways")
		p.Fill("Name", "gw-"+string(at))
		p.Choose("Site", string(at))
		p.Click("Show the command")
		gateways[at] = v.paste(p.Find("region", "Command to enrol gw-"+string(at)).Text(), at)
		p.With("row", "gw-"+string(at)).Expect("connected")
	}
	gateways["home"].AddMachine("web")
	p.Open("/machines")
	p.Tick("Protect web of home")
	p.Choose("To site", "cloud")
	p.Click("Protect")
	ended(p)
	return v, p, gateways
}

// ended waits on the page of a job until the job has done what it should.
func ended(p *browser.Page) {
	p.ExpectAt("/jobs/")
	p.Find("region", "State").Expect("succeeded")
}

// operate opens the dialog of an operation from the item's page and, where there
// is something to choose, goes on to the review.
func operate(p *browser.Page, operation string, choose func()) {
	p.Open("/items/web")
	p.Follow("Operations")
	p.Find("dialog", "").Find("link", operation).Click()
	p.Find("dialog", "").Expect(operation + " of web")
	if choose != nil {
		choose()
		p.Click("Review")
	}
	p.Find("dialog", "").Find("button", operation).Expect(operation)
}

// confirm types the name of the machine where that is asked, and begins the
// operation of the open dialog.
func confirm(p *browser.Page, operation string) {
	if field := p.Find("textbox", "Type web to confirm"); field.Is() {
		p.Fill("Type web to confirm", "web")
	}
	p.Find("dialog", "").Find("button", operation).Click()
}

// TestPortalOperations: the whole way to the other site and home again, by what
// is on the pages.
func TestPortalOperations(t *testing.T) {
	_, p, _ := ready(t)
	p.Excuse("status of 40[09]") // what is wrong or comes too early is refused
	p.Open("/items/web")
	p.Find("region", "Status").Expect("Protected")

	operate(p, "Failover", func() {
		p.Find("dialog", "").Expect("home", "cloud", "recommended", "loses")
		p.Accessible()
	})
	p.Find("dialog", "").Expect("Moment", "Lost of what was received", "Is lost")
	p.Accessible()
	confirm(p, "Failover")
	ended(p)
	look(t, p)

	p.Open("/items/web/reprotect")
	p.Click("Review")
	p.Find("alert", "").Expect("What to do")
	p.Open("/items/web")
	p.Find("region", "Status").Expect("Failed over, commit pending")

	operate(p, "Commit", nil)
	confirm(p, "Commit")
	ended(p)
	operate(p, "Re-protect", func() {})
	confirm(p, "Re-protect")
	ended(p)
	p.Open("/items/web")
	p.Find("region", "Status").Expect("Protected")

	operate(p, "Failback", func() {})
	confirm(p, "Failback")
	ended(p)
	operate(p, "Commit", nil)
	p.Find("dialog", "").Expect("Is deleted", "Type web to confirm")
	p.Fill("Type web to confirm", "wob")
	p.Find("dialog", "").Find("button", "Commit").Click()
	p.Find("alert", "").Expect("type \"web\"")
	p.Fill("Type web to confirm", "web")
	p.Find("dialog", "").Find("button", "Commit").Click()
	ended(p)
	p.Find("region", "What is deleted").Expect("Deletes")
	operate(p, "Re-protect", func() {})
	confirm(p, "Re-protect")
	ended(p)
	p.Open("/items/web")
	p.Find("region", "Status").Expect("Protected")

	p.Open("/jobs")
	p.Heading("Jobs")
	p.With("row", "Commit of web").Expect("succeeded", "alice")
	look(t, p)
}
