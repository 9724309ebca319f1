package rivals

import (
	"bytes"
	"encoding/base64"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// Sizes of what the backend sends. A JSON answer is some 2 KB, as of an image service that answers with a link and
// what it made of the prompt.
const (
	jsonBytes  = 2 << 10
	imageBytes = 2 << 20
)

// ImagePath is where the backend answers with an image of 2 MB; everywhere else it is JSON of 2 KB.
const ImagePath = "/bench/image"

// backend answers every request alike, after a delay.
type backend struct {
	delay time.Duration
	json  []byte
	image []byte
}

func newBackend(delay time.Duration) *backend {
	const head, tail = `{"created":1795342466,"data":[{"status":"ok","b64_json":"`, `"}]}`
	filler := bytes.Repeat([]byte("creditgate bench"), imageBytes/16)
	text := base64.StdEncoding.EncodeToString(filler[:jsonBytes])
	return &backend{
		delay: delay,
		json:  []byte(head + text[:jsonBytes-len(head)-len(tail)] + tail),
		image: filler,
	}
}

func (b *backend) serve(ctx *fasthttp.RequestCtx) {
	if b.delay > 0 {
		wait := time.NewTimer(b.delay)
		select {
		case <-wait.C:
		case <-ctx.Done(): // the process is asked to end
			wait.Stop()
		}
	}
	if strings.HasPrefix(string(ctx.Path()), ImagePath) {
		ctx.SetContentType("image/png")
		ctx.Response.SetBodyRaw(b.image)
		return
	}
	ctx.SetContentType("application/json")
	ctx.Response.SetBodyRaw(b.json)
}
