package portal

import (
	"testing"

	"rebound/internal/control/controltest"
	"rebound/internal/dr"
	"rebound/test/portal/browser"
)

const password = "a long enough phrase"

// look checks a page in each view: no serious finding of axe-core, and nothing
// that has to be scrolled sideways.
func look(t *testing.T, p *browser.Page) {
	t.Helper()
	for _, v := range []browser.View{browser.Wide, browser.Wide.InDark(), browser.Narrow} {
		p.Look(v)
		p.Accessible()
		p.FitsSideways()
	}
	p.Look(browser.Wide)
}

// TestPortalFirstRun goes from the first token to the first protected machine by
// the pages alone.
func TestPortalFirstRun(t *testing.T) {
	v := newPlace(t)
	p := browser.Start(t).NewPage(t, v.url)
	p.Open("/")
	p.Heading("Sign in")
	look(t, p)
	p.Follow("Make the first account")
	p.Heading("First run")
	look(t, p)
	p.Excuse("status of 40[01]") // what is wrong is refused
	fill := func(token, again string) {
		p.Fill("First token", token)
		p.Fill("Your name", "alice")
		p.Fill("Password", password)
		p.Fill("Password again", again)
		p.Click("Make the account")
	}
	fill("rbt_WRONG", password)
	p.Find("alert", "").Expect("the token is not valid")
	fill(v.firstToken(), "something else here")
	p.Find("alert", "").Expect("the two passwords are not the same")
	fill(v.firstToken(), password)
	p.Heading("First steps")
	look(t, p)

	gateways := map[dr.SiteID]*controltest.Gateway{}
	for _, at := range []dr.SiteID{"home", "cloud"} {
		p.Open("/sites")
		p.Fill("Name", string(at))
		p.Click("Add site")
		p.With("row", string(at)).Expect("Enrol one")
		look(t, p)
		p.Open("/gateways")
		p.Fill("Name", "gw-"+string(at))
		p.Choose("Site", string(at))
		p.Click("Show the command")
		command := p.Find("region", "Command to enrol gw-"+string(at)).Text()
		p.With("row", "gw-"+string(at)).Expect("waits to be started")
		look(t, p)
		loads := p.Loads()
		gateways[at] = v.paste(command, at)
		p.With("row", "gw-"+string(at)).Expect("connected")
		if p.Loads() != loads {
			t.Errorf("the page of the gateways was loaded again")
		}
	}
	p.Open("/start")
	p.Expect("0 machines found")
	gateways["home"].AddMachine("web")
	p.Expect("1 machine found")
	p.Follow("Protect a machine")
	p.Tick("Protect web of home")
	p.Choose("To site", "cloud")
	look(t, p)
	p.Click("Protect")
	p.ExpectAt("/jobs/")
	p.Open("/start")
	p.Find("link", "web").Click()
	p.Heading("web")
	p.Expect("Protected")
	look(t, p)
	pages := map[string]string{
		"/": "Overview", "/start": "First steps", "/sites": "Sites", "/gateways": "Gateways", "/machines": "Machines",
		"/items": "Replicated items", "/items/web": "web",
	}
	for path, title := range pages {
		p.Open(path)
		p.Heading(title)
		look(t, p)
	}
	p.NoScript()
	for path, title := range pages {
		p.Open(path)
		p.Heading(title)
		p.FitsSideways()
	}
}
