package portal

import "rebound/internal/vault/auth"

// navSection is a part of the navigation.
type navSection struct {
	Title   string
	Entries []navEntry
}

type navEntry struct {
	Path, Title, Icon string
	// Current: the page belongs to it.
	Current bool
	role    auth.Role
}

// navigation is what there is, in the order of how urgent it gets.
func navigation() []navSection {
	return []navSection{
		{"", []navEntry{
			{Path: "/", Title: "Overview", Icon: "home"},
			{Path: "/items", Title: "Replicated items", Icon: "items"},
			{Path: "/groups", Title: "Groups", Icon: "network"},
			{Path: "/jobs", Title: "Jobs", Icon: "job"},
			{Path: "/plans", Title: "Recovery plans", Icon: "plan"},
			{Path: "/events", Title: "Events", Icon: "bell"},
		}},
		{"Infrastructure", []navEntry{
			{Path: "/sites", Title: "Sites", Icon: "site"},
			{Path: "/gateways", Title: "Gateways", Icon: "gateway"},
			{Path: "/machines", Title: "Machines", Icon: "machine"},
			{Path: "/policies", Title: "Policies", Icon: "policy"},
			{Path: "/mappings", Title: "Networks", Icon: "network"},
		}},
		{"Administration", []navEntry{
			{Path: "/users", Title: "Users", Icon: "user", role: auth.Owner},
			{Path: "/tokens", Title: "Tokens", Icon: "key"},
			{Path: "/audit", Title: "Audit log", Icon: "audit", role: auth.Owner},
			{Path: "/settings", Title: "Settings", Icon: "settings"},
		}},
	}
}

// sections is the navigation as this person sees it.
func (rq *Request) sections(current string) []navSection {
	var out []navSection
	if rq.Who.ID == "" {
		return nil
	}
	for _, s := range navigation() {
		var seen []navEntry
		for _, e := range s.Entries {
			if e.role != "" && !rq.May(e.role) {
				continue
			}
			e.Current = e.Path == current
			seen = append(seen, e)
		}
		out = append(out, navSection{s.Title, seen})
	}
	return out
}
