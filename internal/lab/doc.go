// Package lab is the demo's and the tests' world: guests as bootable disks
// (image), what runs in them (guest, ledger), the host that listens to them
// (collector), the judge of what must have survived (checker) and the networks
// they meet on (netns). The parts are in the packages below; the tests here
// put them together with real machines under QEMU. The product never imports
// any of it; "rebound demo" does.
package lab
