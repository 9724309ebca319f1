package meter

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const uuidText = "01932f6e-7b8c-7abc-8123-456789abcdef"

func anyID() *rapid.Generator[ID] {
	return rapid.Custom(func(t *rapid.T) ID {
		return ID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
	})
}

func TestNewID(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ms := rapid.Int64Range(0, 1<<48-1).Draw(t, "ms")
		id := NewID(time.UnixMilli(ms))
		require.Equal(t, ms, id.CreatedMs())
		require.False(t, id.IsZero())
		text := id.String()
		require.Equal(t, byte('7'), text[14], "version")
		require.Contains(t, "89ab", text[19:20], "variant")
		require.NotEqual(t, id, NewID(time.UnixMilli(ms)), "two ids of one millisecond differ")
	})
}

func TestIDText(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id := anyID().Draw(t, "id")
		got, err := ParseID(id.String())
		require.NoError(t, err)
		require.Equal(t, id, got)
		r := ReservationID{Layout: rapid.Uint16().Draw(t, "l"), Partition: rapid.Uint16().Draw(t, "p"), ID: id}
		var viaJSON ReservationID
		b, err := json.Marshal(r)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(b, &viaJSON))
		require.Equal(t, r, viaJSON)
	})
}

// One id has one spelling: a second one would be a second name for the same charge.
func TestIDOnlyCanonical(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", strings.ToUpper(uuidText), strings.ReplaceAll(uuidText, "-", ""), "{" + uuidText + "}", uuidText + "0",
		uuidText[1:], strings.Replace(uuidText, "f", "g", 1), strings.Replace(uuidText, "-", "_", 1),
		"01932f6e-7b8c-7abc-8123-456789abcdé", "urn:uuid:" + uuidText,
	} {
		id, err := ParseID(s)
		require.ErrorIs(t, err, ErrID, "%q", s)
		require.True(t, id.IsZero(), "%q: a refused id is no id", s)
	}
	for _, s := range []string{
		"", uuidText, "1-" + uuidText, "1-3-" + uuidText, "01-03-" + uuidText, "1-003-" + uuidText, "+1-03-" + uuidText,
		"1-+3-" + uuidText, "-1-03-" + uuidText, "65536-00-" + uuidText, "1-65536-" + uuidText,
		"1-03-" + strings.ToUpper(uuidText), "1-03-" + uuidText + " ", " 1-03-" + uuidText, "1--03-" + uuidText,
	} {
		id, err := ParseReservationID(s)
		require.ErrorIs(t, err, ErrID, "%q", s)
		require.Zero(t, id, "%q: a refused id is no id", s)
	}
	id, err := ParseReservationID("1-03-" + uuidText)
	require.NoError(t, err)
	require.Equal(t, uint16(1), id.Layout)
	require.Equal(t, uint16(3), id.Partition)
	require.Equal(t, int64(0x01932f6e7b8c), id.ID.CreatedMs())
}

func TestValidName(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"a", "A.b_c-9", "..", strings.Repeat("x", 64)} {
		require.True(t, ValidName(s), "%q", s)
	}
	for _, s := range []string{"", strings.Repeat("x", 65), "a b", "a/b", "a|b", "a{b}", "é", "a\x00", "a\n", "*"} {
		require.False(t, ValidName(s), "%q", s)
	}
}

func FuzzParseReservationID(f *testing.F) {
	f.Add("1-03-" + uuidText)
	f.Add("65535-65535-ffffffff-ffff-ffff-ffff-ffffffffffff")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseReservationID(s)
		if err != nil {
			require.ErrorIs(t, err, ErrID)
			return
		}
		require.Equal(t, s, id.String())
	})
}
