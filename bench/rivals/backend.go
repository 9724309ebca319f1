package rivals

import (
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"creditgate/bench/cast"
)

// backend answers every request alike, after a delay: an image where the path asks for one, else JSON.
type backend struct {
	delay time.Duration
	json  []byte
	image []byte
}

func newBackend(delay time.Duration) *backend {
	return &backend{delay: delay, json: cast.Answer(), image: cast.Image()}
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
	if strings.HasPrefix(string(ctx.Path()), cast.PathImage) { // and PathImageFree
		ctx.SetContentType(cast.ImageType)
		ctx.Response.SetBodyRaw(b.image)
		return
	}
	ctx.SetContentType("application/json")
	ctx.Response.SetBodyRaw(b.json)
}
