package policy

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Texts are stepped over eight bytes at a time: every byte at every offset of a few words is judged as
// encoding/json judges it.
func TestEveryByteAtEveryOffset(t *testing.T) {
	t.Parallel()
	for length := range 20 {
		for at := range length {
			for c := range 256 {
				text := []byte(`{"a":"` + strings.Repeat("x", length) + `"}`)
				text[6+at] = byte(c)
				_, refused := readJSON(text, nil, false, emptyMemory())
				if want := json.Valid(text); want != (refused == nil) {
					t.Fatalf("%q: valid is %v, but it was %v", text, want, refused)
				}
			}
		}
	}
}

// Neighbours of a special byte must not hide or move it.
func TestSpecialBytesTogether(t *testing.T) {
	t.Parallel()
	bytes := []byte{'"', '\\', 0x1f, ' ', '!', '#', '[', ']', 0x7f, 0x80, 0xff}
	for _, a := range bytes {
		for _, b := range bytes {
			for at := range 9 {
				text := []byte(`["xxxxxxxxxxxxxxxx"]`)
				text[2+at], text[3+at] = a, b
				_, refused := readJSON(text, nil, false, emptyMemory())
				require.Equal(t, json.Valid(text), refused == nil, "%q", text)
			}
		}
	}
}

func TestElementsAreBounded(t *testing.T) {
	t.Parallel()
	counting := operation(t, "units: min(len(body.a), 2)", "max: 2", "credits: 1")
	walking := operation(t, "units: 'min(count(body.a, # == 1), 2)'", "max: 2", "credits: 1")
	body := `{"a":[` + strings.Repeat("1,", elementsMax) + `1]}`
	require.Equal(t, "2 × 1 = 2", price(counting, jsonRequest(body)))
	require.Equal(t, "invalid request (body.a): body.a has too many elements; 100000 are read at most.",
		price(walking, jsonRequest(body)))
}
