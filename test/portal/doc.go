// Package portal holds the tests of the web portal: a person with a browser,
// and nothing else, in front of a vault.
package portal
