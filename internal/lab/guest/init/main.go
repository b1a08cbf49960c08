// Command init is /init of the lab's guests; see package guest.
package main

import "rebound/internal/lab/guest"

func main() { guest.Main() }
