package meter

import (
	"encoding/json"
	"math"
	"math/big"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestCreditsText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Credits{
		"0": 0, "3": 3 * Credit, "0.25": 250, "0.001": 1, "-1.005": -1005, "10.1": 10_100, "-0.5": -500,
		"9007199254740.991":  MaxCredits,
		"-9007199254740.991": -MaxCredits,
	} {
		got, err := ParseCredits(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
		require.Equal(t, text, want.String())
	}
	for text, want := range map[string]Credits{"3.0": 3000, "0.250": 250, "-0": 0} { // read, but never written
		got, err := ParseCredits(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	require.Equal(t, "-9223372036854775.808", Credits(math.MinInt64).String(), "even an impossible amount prints")
}

func TestCreditsRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "-", ".", "1.", ".5", "-.5", "+1", "--1", "01", "-00", "1.0000", "0.2501", "1e3", "1E3", "0x1", "1_000",
		"1,5", " 1", "1 ", "1\n", "NaN", "Infinity", "null", "true", `"1"`, "١", "1.٢", "1.-2", "9007199254740.992",
		"-9007199254740.992", "9223372036854775.807", "18446744073709551616", strings.Repeat("9", 400),
	} {
		_, err := ParseCredits(text)
		require.ErrorIs(t, err, ErrAmount, "%q", text)
	}
}

// Two parsers that read one price differently are a way to a wrong price, so JSON is read exactly like text.
func TestCreditsJSON(t *testing.T) {
	t.Parallel()
	var v struct {
		C Credits  `json:"c"`
		P *Credits `json:"p"`
	}
	require.NoError(t, json.Unmarshal([]byte(`{"c":0.25,"p":3}`), &v))
	require.Equal(t, Credits(250), v.C)
	b, err := json.Marshal(v)
	require.NoError(t, err)
	require.JSONEq(t, `{"c":0.25,"p":3}`, string(b))
	for _, bad := range []string{`"1"`, `1e3`, `1.0001`, `null`, `true`, `[]`, `{}`, `9007199254740.992`, `1e400`} {
		v.C = 7
		require.Error(t, json.Unmarshal([]byte(`{"c":`+bad+`}`), &v), bad)
		require.Equal(t, Credits(7), v.C, "a refused amount leaves the old one: %s", bad)
	}
}

func anyCredits() *rapid.Generator[Credits] {
	return rapid.Custom(func(t *rapid.T) Credits {
		return Credits(rapid.Int64Range(-int64(MaxCredits), int64(MaxCredits)).Draw(t, "credits"))
	})
}

func TestCreditsRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := anyCredits().Draw(t, "c")
		got, err := ParseCredits(c.String())
		require.NoError(t, err)
		require.Equal(t, c, got)
		var viaJSON Credits
		b, err := json.Marshal(c)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(b, &viaJSON))
		require.Equal(t, c, viaJSON)
	})
}

// Every sum and product agrees with arbitrary precision: exact inside ±MaxCredits, refused outside. The operands
// are any int64, because a multiplier comes from a request.
func TestCreditsArithmetic(t *testing.T) {
	t.Parallel()
	check := func(t *rapid.T, got Credits, err error, want *big.Int, valid bool) {
		if valid && want.IsInt64() && Credits(want.Int64()).Valid() {
			require.NoError(t, err)
			require.Equal(t, want.Int64(), int64(got))
			return
		}
		require.ErrorIs(t, err, ErrAmount)
		require.Zero(t, got)
	}
	edge := rapid.OneOf(rapid.Int64(), rapid.Int64Range(-int64(MaxCredits), int64(MaxCredits)),
		rapid.SampledFrom([]int64{0, 1, -1, math.MinInt64, math.MaxInt64, int64(MaxCredits), -int64(MaxCredits)}))
	rapid.Check(t, func(t *rapid.T) {
		a, b := edge.Draw(t, "a"), edge.Draw(t, "b")
		sum, err := Credits(a).Add(Credits(b))
		check(t, sum, err, new(big.Int).Add(big.NewInt(a), big.NewInt(b)), Credits(a).Valid() && Credits(b).Valid())
		product, err := Credits(a).Mul(b)
		check(t, product, err, new(big.Int).Mul(big.NewInt(a), big.NewInt(b)), true)
	})
}

func FuzzParseCredits(f *testing.F) {
	for _, s := range []string{"3", "-0.25", "9007199254740.991", "1e3", "00", "1.0000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCredits(s)
		if err != nil {
			require.ErrorIs(t, err, ErrAmount)
			return
		}
		require.True(t, c.Valid())
		want, ok := new(big.Rat).SetString(s)
		require.True(t, ok, "%q was read as %s but is not a number", s, c)
		require.Zero(t, want.Cmp(big.NewRat(int64(c), 1000)), "%q was read as %s", s, c)
		require.True(t, json.Valid([]byte(s)), "%q is not a JSON number", s)
	})
}
