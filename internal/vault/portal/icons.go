package portal

import "html/template"

// iconPaths are drawings of 16 by 16, of lines 1.5 wide.
func iconPaths(name string) string {
	switch name {
	case "ok":
		return `<circle cx="8" cy="8" r="6.25"/><path d="m5.2 8.2 2 2 3.6-4.2"/>`
	case "warn", "warning":
		return `<path d="M8 2 14.5 13.5h-13z"/><path d="M8 6.5v3.2M8 11.6v.2"/>`
	case "crit", "critical":
		return `<path d="M5.4 1.75h5.2l3.65 3.65v5.2l-3.65 3.65H5.4L1.75 10.6V5.4z"/><path d="M8 4.8v3.7M8 11v.2"/>`
	case "info":
		return `<circle cx="8" cy="8" r="6.25"/><path d="M8 7.3v4M8 4.8V5"/>`
	case "busy":
		return `<path d="M13.5 8A5.5 5.5 0 0 1 3.6 11.3M2.5 8a5.5 5.5 0 0 1 9.9-3.3"/><path d="M12.7 1.9v3h-3M3.3 14.1v-3h3"/>`
	case "idle":
		return `<circle cx="8" cy="8" r="6.25"/><path d="M5.5 8h5"/>`
	case "wait":
		return `<circle cx="8" cy="8" r="6.25"/><path d="M8 4.5V8l2.4 1.6"/>`
	case "home":
		return `<path d="M2 7.5 8 2.3l6 5.2M3.8 6.5v7h8.4v-7"/>`
	case "items":
		return `<rect x="1.8" y="2" width="9" height="6" rx="1"/><path d="M5.2 10.8v2.7h9V7.2h-1.4"/>`
	case "job":
		return `<path d="M2 4h1M6 4h8M2 8h1M6 8h8M2 12h1M6 12h8"/>`
	case "plan":
		return `<rect x="1.8" y="1.8" width="5" height="4" rx="1"/><rect x="9.2" y="10.2" width="5" height="4" rx="1"/><path d="M4.3 5.8v6.4h4.9"/>`
	case "bell":
		return `<path d="M3 11.5h10l-1.3-2V7a3.7 3.7 0 0 0-7.4 0v2.5zM6.7 14h2.6"/>`
	case "site":
		return `<path d="M2.5 14V3.5l6-1.7V14M8.5 6h5v8M1.5 14h13M5 5.5h1M5 8.5h1M5 11.5h1M11 8.8h.5M11 11.5h.5"/>`
	case "gateway":
		return `<rect x="1.8" y="8.5" width="12.4" height="5" rx="1"/><path d="M4.5 11h.2M8 8.5v-6M5.5 4.8 8 2.3l2.5 2.5"/>`
	case "machine":
		return `<rect x="1.8" y="2.3" width="12.4" height="8.4" rx="1"/><path d="M8 10.7v3M5 13.7h6"/>`
	case "policy":
		return `<path d="M8 1.8 13.5 4v4c0 3.4-2.3 5.4-5.5 6.3C4.8 13.4 2.5 11.4 2.5 8V4z"/>`
	case "network":
		return `<circle cx="8" cy="3.2" r="1.6"/><circle cx="3.2" cy="12.5" r="1.6"/><circle cx="12.8" cy="12.5" r="1.6"/><path d="M8 4.8v3.4M3.2 10.9V8.2h9.6v2.7"/>`
	case "user":
		return `<circle cx="8" cy="5" r="2.8"/><path d="M2.5 14c.5-3 2.6-4.5 5.5-4.5s5 1.5 5.5 4.5"/>`
	case "key":
		return `<circle cx="4.8" cy="11.2" r="3"/><path d="m7 9 6.5-6.5M11 5l2 2"/>`
	case "audit":
		return `<path d="M3.5 1.8h6l3 3v9.4h-9zM6 7.5h4M6 10.5h4"/>`
	case "settings":
		return `<path d="M2 4.5h6M11.5 4.5H14M2 11.5h2.5M8 11.5h6"/><circle cx="9.7" cy="4.5" r="1.7"/><circle cx="6.2" cy="11.5" r="1.7"/>`
	case "right":
		return `<path d="M2 8h11M9.5 4.5 13 8l-3.5 3.5"/>`
	case "down":
		return `<path d="m3.5 6 4.5 4.5L12.5 6"/>`
	case "up":
		return `<path d="M3.5 10.5 8 6l4.5 4.5"/>`
	case "more":
		return `<path d="M8 3.2v.1M8 8v.1M8 12.8v.1"/>`
	case "close":
		return `<path d="m3.5 3.5 9 9M12.5 3.5l-9 9"/>`
	case "menu":
		return `<path d="M2 4h12M2 8h12M2 12h12"/>`
	case "search":
		return `<circle cx="7" cy="7" r="4.5"/><path d="m10.5 10.5 3.5 3.5"/>`
	default:
		return `<circle cx="8" cy="8" r="2"/>`
	}
}

// icon draws a sign that says nothing which the words beside it do not say.
func icon(name string) template.HTML {
	// The name only chooses among our own drawings.
	return template.HTML(`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true" focusable="false">` + iconPaths(name) + `</svg>`) //nolint:gosec // see above
}
