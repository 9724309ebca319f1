package main

import "strings"

// heapFloor is what the collector takes the live heap to be at least: garbage of that size comes together before it
// runs. A gateway's own live heap is some 10 MB, so that at Go's default it would run many times a second under load,
// each time beside the requests on the same cores. A percentage would do the same for a small heap, but ask for five
// times the memory where thousands of images are in flight; this adds at most heapFloor.
const heapFloor = 64 << 20

// raiseHeap allocates memory that is never touched: it counts in the collector's goal and takes no room on the machine.
// It is for the caller to keep. An operator who has set GOGC or GOMEMLIMIT has decided otherwise.
func raiseHeap(environ []string) []byte {
	for _, v := range environ {
		if strings.HasPrefix(v, "GOGC=") || strings.HasPrefix(v, "GOMEMLIMIT=") {
			return nil
		}
	}
	return make([]byte, heapFloor)
}
