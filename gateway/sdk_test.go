package gateway_test

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/meter"
)

// sdkRetries is how often the client repeats a request; the schedule has as many faults in a row at most.
const sdkRetries = 4

// sdkFaults are what a backend does to three requests in ten: failures of its own and broken connections.
func sdkFaults() []fasthttp.RequestHandler {
	return []fasthttp.RequestHandler{
		func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(http.StatusBadGateway) },
		func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(http.StatusGatewayTimeout) },
		func(ctx *fasthttp.RequestCtx) { hangUp(ctx, "") },
		func(ctx *fasthttp.RequestCtx) {
			hangUp(ctx, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":[")
		},
	}
}

// sdkBackend fails each generation as its seeded schedule says, the same in each run, then makes one image.
type sdkBackend struct {
	mu       sync.Mutex
	schedule map[string][]fasthttp.RequestHandler // faults still to come, by prompt
	faults   int
	images   int
}

func newSDKBackend(generations int) *sdkBackend {
	random := rand.New(rand.NewPCG(10, 2026))
	s := &sdkBackend{schedule: map[string][]fasthttp.RequestHandler{}}
	kinds := sdkFaults()
	for i := range generations {
		prompt := strconv.Itoa(i)
		for len(s.schedule[prompt]) < sdkRetries && random.Float64() < 0.3 {
			s.schedule[prompt] = append(s.schedule[prompt], kinds[random.IntN(len(kinds))])
			s.faults++
		}
	}
	return s
}

func (s *sdkBackend) serve(ctx *fasthttp.RequestCtx) {
	var ask struct {
		Prompt string `json:"prompt"`
	}
	if err := json.Unmarshal(ctx.PostBody(), &ask); err != nil {
		ctx.SetStatusCode(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := s.schedule[ask.Prompt]; len(left) > 0 {
		s.schedule[ask.Prompt] = left[1:]
		left[0](ctx)
		return
	}
	s.images++
	ctx.SetContentType("application/json")
	ctx.SetBodyString(`{"created":1,"data":[{"b64_json":"aW1hZ2U="}]}`)
}

// TestSDKOutlastsFaults: the official client of OpenAI's API, allowed four retries, gets every image from a backend that
// fails three requests in ten, and the account pays for the images alone. Half of the requests carry an Idempotency-Key.
func TestSDKOutlastsFaults(t *testing.T) {
	t.Parallel()
	const generations, clients = 200, 16
	b := setup(t)
	key := b.account("acme", (generations+50)*meter.Credit)
	s := newSDKBackend(generations)
	require.Greater(t, s.faults, generations/4, "faults are planted")
	b.backend.on(s.serve)
	client := openai.NewClient(option.WithBaseURL(b.data+"/v1/"), option.WithAPIKey(key), option.WithHTTPClient(b.client),
		option.WithMaxRetries(sdkRetries), option.WithMaxRetryDelay(10*time.Millisecond))
	failed := make(chan error, generations)
	var work sync.WaitGroup
	for c := range clients {
		work.Go(func() {
			for i := c; i < generations; i += clients {
				prompt := strconv.Itoa(i)
				var options []option.RequestOption
				if i%2 == 0 {
					options = append(options, option.WithHeader("Idempotency-Key", "generation-"+prompt))
				}
				images, err := client.Images.Generate(t.Context(), openai.ImageGenerateParams{Prompt: prompt}, options...)
				if err != nil {
					failed <- err
				} else if len(images.Data) != 1 {
					t.Errorf("generation %d: %d images", i, len(images.Data))
				}
			}
		})
	}
	work.Wait()
	close(failed)
	var first error
	for err := range failed {
		first = err
		break
	}
	require.NoError(t, first, "and %d more of %d generations failed", len(failed), generations)
	require.Equal(t, generations, s.images)
	require.EqualValues(t, generations+s.faults, b.backend.calls.Load(), "each fault cost one retry")
	available, held := b.wallet("acme")
	require.Equal(t, [2]meter.Credits{50 * meter.Credit, 0}, [2]meter.Credits{available, held}, "charged = images")
}
