// Package api serves the vault over HTTPS: the REST API under /api/v1 (with
// its OpenAPI document), the gateways' connections, reports and enrolment, and
// the agents' registration. It decides nothing about the life cycle itself: it
// asks the orchestrator and shows what store and live hold. Package vault is
// the only caller.
package api
