// Package e2e holds the end-to-end tests: real guests in real QEMUs, every
// process of Rebound from the real binary, driven through the REST API, killed
// and stopped from outside, and judged by what the guests told the host. It
// has tests only; "go test -short" skips them.
package e2e
