package policy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What pricing adds to a request. The large body is one image in base64, which is stepped over and not copied.
func BenchmarkPrice(b *testing.B) {
	src, err := Example("dev")
	require.NoError(b, err)
	p, err := Parse("dev.yaml", src)
	require.NoError(b, err)
	image := `{"photos":[{"id":"a","image":"` + strings.Repeat("QUJD", 1<<19) + `"}],"background":"#ffffff"}`
	for _, c := range []struct{ name, path, body string }{
		{"free", "/studio/revert", `{"id":"a"}`},
		{"body=32B", "/v1/images/generations", `{"prompt":"a red fox","n":2}`},
		{"body=2MiB", "/studio/apply", image},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := jsonRequest(c.body)
			b.SetBytes(int64(len(c.body)))
			b.ReportAllocs()
			for b.Loop() {
				o, params, _ := p.Match("POST", c.path)
				r.Params = params
				v, err := o.Read(r)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := o.Quote(v); err != nil {
					b.Fatal(err)
				}
				v.Release()
			}
		})
	}
}

// What issuing spends on an amount, once for each account and cycle.
func BenchmarkAmount(b *testing.B) {
	p, err := Parse("every.yaml", []byte(every))
	require.NoError(b, err)
	amount := p.Plans[1].Contingents[0].Amount
	b.ReportAllocs()
	for b.Loop() {
		amount.For(50)
	}
}

func BenchmarkMatch(b *testing.B) {
	p := parse(b, routesSource)
	for _, path := range []string{"/v1/images", "/v1/images/7/edit", "/nothing"} {
		b.Run(strings.Trim(path, "/"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Match("POST", path)
			}
		})
	}
}

// A skipped value costs no memory, whatever its size.
func TestSkippedValuesAreNotCopied(t *testing.T) { //nolint:paralleltest // others would add to its allocations
	o := operation(t, "units: len(body.photos)", "max: 50", "credits: 1")
	allocated := func(size int) int64 {
		r := jsonRequest(`{"photos":["` + strings.Repeat("A", size) + `"]}`)
		return testing.Benchmark(func(b *testing.B) {
			for b.Loop() {
				if _, err := o.Read(r); err != nil {
					b.Fatal(err)
				}
			}
		}).AllocedBytesPerOp()
	}
	require.Less(t, allocated(1<<20), int64(8<<10))
}
