// Package guard holds the whole gateway's heap allocations for a request against those that were recorded:
// `make guard`, and a test among others in `make test`. What a request costs Redis is counted beside the scripts'
// tests, in package meter, where flights of an exact size can be made.
//
// It times nothing, so that a busy machine gives the figures of an idle one.
package guard
