package meter

import (
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// Credits is an amount in thousandths of a credit (milli-credits). It is never a float: a Lua number is a
// double, so every amount stays within ±MaxCredits, where a double is exact.
type Credits int64

const (
	// Credit is one whole credit.
	Credit Credits = 1000
	// MaxCredits is 2^53-1 thousandths, the largest integer that a Lua number holds exactly.
	MaxCredits Credits = 1<<53 - 1
)

// ErrAmount says that an amount is malformed or outside ±MaxCredits.
var ErrAmount = errors.New("amount is not a number of credits")

// Add returns c+d, or ErrAmount when the sum leaves ±MaxCredits.
func (c Credits) Add(d Credits) (Credits, error) {
	if s := c + d; c.Valid() && d.Valid() && s.Valid() { // two valid amounts cannot overflow int64
		return s, nil
	}
	return 0, fmt.Errorf("%w: %s + %s exceeds ±%s", ErrAmount, c, d, MaxCredits)
}

// Mul returns c·n, or ErrAmount when the product leaves ±MaxCredits.
func (c Credits) Mul(n int64) (Credits, error) {
	hi, lo := bits.Mul64(magnitude(int64(c)), magnitude(n))
	if hi != 0 || lo > uint64(MaxCredits) {
		return 0, fmt.Errorf("%w: %s × %d exceeds ±%s", ErrAmount, c, n, MaxCredits)
	}
	if (c < 0) != (n < 0) {
		return -Credits(lo), nil
	}
	return Credits(lo), nil
}

// Valid reports whether c lies within ±MaxCredits.
func (c Credits) Valid() bool { return -MaxCredits <= c && c <= MaxCredits }

// String writes the amount in credits with at most three decimals: 3, 0.25, -1.005.
func (c Credits) String() string { return string(c.Append(nil)) }

// Append writes String's form to b without allocating for it.
func (c Credits) Append(b []byte) []byte {
	if c < 0 {
		b = append(b, '-')
	}
	m := magnitude(int64(c))
	b = strconv.AppendUint(b, m/1000, 10)
	if frac := m % 1000; frac != 0 {
		b = append(b, '.', byte('0'+frac/100), byte('0'+frac/10%10), byte('0'+frac%10))
		for b[len(b)-1] == '0' {
			b = b[:len(b)-1]
		}
	}
	return b
}

// ParseCredits reads String's form. It refuses exponents, signs other than a leading '-', and a fourth decimal,
// because a value that two parsers read differently is a way to a wrong price.
func ParseCredits(s string) (Credits, error) {
	bad := func(why string) (Credits, error) { return 0, fmt.Errorf("%w: %q %s", ErrAmount, s, why) }
	body, neg := strings.CutPrefix(s, "-")
	whole, frac, dotted := strings.Cut(body, ".")
	if !digits(whole) || len(whole) > 13 || (len(whole) > 1 && whole[0] == '0') {
		return bad("must be a decimal such as 3 or 0.25")
	}
	if dotted && (!digits(frac) || len(frac) > 3) {
		return bad("may have at most three decimals")
	}
	n, err := strconv.ParseInt(whole+(frac + "000")[:3], 10, 64)
	if err != nil || !Credits(n).Valid() {
		return bad("exceeds " + MaxCredits.String())
	}
	if neg {
		n = -n
	}
	return Credits(n), nil
}

// MarshalJSON writes a JSON number with at most three decimals.
func (c Credits) MarshalJSON() ([]byte, error) { return c.Append(nil), nil }

// UnmarshalJSON reads a JSON number of at most three decimals; strings, exponents and null are refused.
func (c *Credits) UnmarshalJSON(b []byte) error {
	v, err := ParseCredits(string(b))
	if err != nil {
		return err
	}
	*c = v
	return nil
}

func magnitude(n int64) uint64 {
	if n < 0 {
		return uint64(-(n + 1)) + 1 // avoids overflow for the smallest int64
	}
	return uint64(n)
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
