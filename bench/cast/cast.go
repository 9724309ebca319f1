// Package cast is what client, targets and backend of the bench agree upon: accounts, their keys, paths and bodies.
// A rival that knows this package needs no other word from the bench.
package cast

import (
	"bytes"
	"fmt"
	"strconv"
)

// AccountsMax is what seven digits name.
const AccountsMax = 10_000_000

// digits are those of an account's number. Their count is fixed, so that a client can write the next key over the last.
const digits = 7

// Product is the name of the policy that the accounts belong to.
const Product = "bench"

// AccountPrefix stands before the number in the name of an account.
const AccountPrefix = "bench-"

// Account is the name of account i, from 0.
func Account(i int) string { return fmt.Sprintf("%s%0*d", AccountPrefix, digits, i) }

// KeyPrefix stands before the number in an API key.
const KeyPrefix = "sk-bench-"

// Key is the API key of account i.
func Key(i int) string { return fmt.Sprintf("%s%0*d", KeyPrefix, digits, i) }

// PutKey writes the number of account i over the one at the start of b, which follows KeyPrefix.
func PutKey(b []byte, i int) {
	for at := digits - 1; at >= 0; at-- {
		b[at] = byte('0' + i%10)
		i /= 10
	}
}

// AccountOf is the number of the account that a key belongs to, of which there are n; ok is false for any other key.
func AccountOf(key []byte, n int) (i int, ok bool) { return numberOf(key, KeyPrefix, n) }

// NumberOf is the number of the account with this name, of which there are n; ok is false for any other name.
func NumberOf(account string, n int) (i int, ok bool) {
	return numberOf([]byte(account), AccountPrefix, n)
}

func numberOf(name []byte, prefix string, n int) (i int, ok bool) {
	number, ok := bytes.CutPrefix(name, []byte(prefix))
	if !ok || len(number) != digits {
		return 0, false
	}
	i, err := strconv.Atoi(string(number))
	return i, err == nil && i >= 0 && i < n
}

// Paths that are asked for, all with POST. The first two cost one credit, the others nothing.
const (
	PathPriced    = "/bench/priced"
	PathImage     = "/bench/image"
	PathFree      = "/bench/free"
	PathImageFree = "/bench/image-free"
)

// Policy is creditgate's for these paths. What the JSON request costs is read from its body, as an image API's would
// be; an image's price is fixed, and its upload is not looked into.
const Policy = `name: bench
timezone: UTC
buckets: [promo, monthly, purchased]

operations:
  priced:
    match: POST /bench/priced
    units: body.n ?? 1
    max: 10
    credits: 1
  image:
    match: POST /bench/image
    credits: 1
  free:
    match: POST /bench/free
    credits: 0
  image-free:
    match: POST /bench/image-free
    credits: 0

unmatched: refuse
`

// Sizes of bodies.
const (
	AnswerSize = 2 << 10 // the backend's JSON
	ImageSize  = 2 << 20 // both ways
)

// RenewalRules are what a policy adds to Policy in which every account can have a plan that renews at one midnight.
const RenewalRules = `
cycle:
  anchor:
    day_of_month: 1
  at: "00:00"
plans:
  studio:
    monthly:
      credits: 1000000
`

// Plan is that of RenewalRules.
const Plan = "studio"

// Request is the JSON request: about 300 bytes that ask for one picture.
func Request() []byte {
	return []byte(`{"model":"studio-2","n":1,"size":"1024x1024","response_format":"url","quality":"standard","prompt":"` +
		`A red bicycle leans against a whitewashed wall in the late afternoon; long shadows, a cat asleep on the ` +
		`saddle, and behind the wall the top of a lemon tree","user":"4f1c2d"}`)
}

// Answer is the backend's JSON answer, AnswerSize bytes.
func Answer() []byte {
	head, tail := `{"created":1767225600,"data":[{"url":"`, `"}]}`
	return []byte(head + string(bytes.Repeat([]byte("x"), AnswerSize-len(head)-len(tail))) + tail)
}

// Image stands for a picture: ImageSize bytes that do not compress. Nothing reads them.
func Image() []byte {
	b := make([]byte, ImageSize)
	state := uint64(0x9e3779b97f4a7c15)
	for i := range b { // xorshift
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		b[i] = byte(state)
	}
	return b
}

// ImageType is the content type of Image.
const ImageType = "image/png"
