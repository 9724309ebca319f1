package studio

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// Limits of a generation. The sizes of OpenAI's image models up to 1792 × 1024 are within; the default is small,
// because the demo and the benchmarks want answers at once.
const (
	picturesMax   = 10
	promptMax     = 32_000
	sideMin       = 16
	generatedSide = 1792
	generatedMax  = 1792 * 1024 // pixels
	defaultSide   = 256
)

// generation is a request in OpenAI's shape. Other members of theirs (model, quality, style, user) are accepted and
// change nothing, as unknown ones are there.
type generation struct {
	Prompt         *string `json:"prompt"`
	N              *int    `json:"n"`
	Size           string  `json:"size"`
	ResponseFormat string  `json:"response_format"`
	OutputFormat   string  `json:"output_format"`
	Stream         bool    `json:"stream"`
}

type generated struct {
	B64JSON []byte `json:"b64_json"`
}

type generations struct {
	Created      int64       `json:"created"`
	Data         []generated `json:"data"`
	OutputFormat string      `json:"output_format"`
	Size         string      `json:"size"`
	Usage        usage       `json:"usage"`
}

type usage struct {
	InputTokens        int          `json:"input_tokens"`
	InputTokensDetails inputDetails `json:"input_tokens_details"`
	OutputTokens       int          `json:"output_tokens"`
	TotalTokens        int          `json:"total_tokens"`
}

type inputDetails struct {
	ImageTokens int `json:"image_tokens"`
	TextTokens  int `json:"text_tokens"`
}

// generate draws n pictures. Items that are steered to fail are left out of data, as a real service leaves out what
// its filter held back: the answer is a 200 with fewer pictures than were asked for.
func (s *Studio) generate(ctx *fasthttp.RequestCtx, steer steering) reply {
	var g generation
	if err := json.Unmarshal(ctx.PostBody(), &g); err != nil {
		return refusal(invalid("", "the body is not the expected JSON: "+err.Error()))
	}
	n, w, h, err := g.read()
	if err != nil {
		return refusal(err)
	}
	pictures := make([][]byte, n)
	failures := make([]error, n)
	s.each(n, func(i int) {
		if !steer.failsItem(i, "") {
			pictures[i], failures[i] = s.encoder.png(picture(*g.Prompt, i, w, h))
		}
	})
	out := generations{
		Created: time.Now().Unix(), Data: []generated{}, OutputFormat: "png", Size: fmt.Sprintf("%dx%d", w, h),
	}
	for i, p := range pictures {
		if failures[i] != nil {
			return refusal(failures[i])
		}
		if p != nil {
			out.Data = append(out.Data, generated{B64JSON: p})
		}
	}
	out.Usage = usageOf(*g.Prompt, len(out.Data), w, h)
	return jsonReply(fasthttp.StatusOK, out)
}

// read checks the request and fills in what it leaves open.
func (g *generation) read() (n, w, h int, err error) {
	n = 1
	if g.N != nil {
		n = *g.N
	}
	switch {
	case g.Prompt == nil || strings.TrimSpace(*g.Prompt) == "":
		return 0, 0, 0, invalid("prompt", "prompt is missing")
	case len(*g.Prompt) > promptMax:
		return 0, 0, 0, invalid("prompt", fmt.Sprintf("prompt has %d bytes, at most %d are read", len(*g.Prompt), promptMax))
	case n < 1 || n > picturesMax:
		return 0, 0, 0, invalid("n", fmt.Sprintf("n is %d, must be 1 to %d", n, picturesMax))
	case g.ResponseFormat != "" && g.ResponseFormat != "b64_json":
		return 0, 0, 0, invalid("response_format", fmt.Sprintf("response_format is %q; only b64_json is served", g.ResponseFormat))
	case g.OutputFormat != "" && g.OutputFormat != "png":
		return 0, 0, 0, invalid("output_format", fmt.Sprintf("output_format is %q; only png is served", g.OutputFormat))
	case g.Stream:
		return 0, 0, 0, invalid("stream", "stream is true; only whole answers are served")
	}
	w, h, ok := parseSize(g.Size)
	if !ok {
		return 0, 0, 0, invalid("size", fmt.Sprintf("size is %q, must be auto or <width>x<height>: each side %d to %d, at most %d "+
			"pixels", g.Size, sideMin, generatedSide, generatedMax))
	}
	return n, w, h, nil
}

func parseSize(s string) (w, h int, ok bool) {
	if s == "" || s == "auto" {
		return defaultSide, defaultSide, true
	}
	ws, hs, cut := strings.Cut(s, "x")
	w, err1 := strconv.Atoi(ws)
	h, err2 := strconv.Atoi(hs)
	ok = cut && err1 == nil && err2 == nil && min(w, h) >= sideMin && max(w, h) <= generatedSide && w*h <= generatedMax
	return w, h, ok
}

// usageOf counts tokens by a simple rule of this service: four bytes of prompt are one, and so is a patch of 32 × 32
// pixels.
func usageOf(prompt string, pictures, w, h int) usage {
	in, out := (len(prompt)+3)/4, pictures*((w+31)/32)*((h+31)/32)
	return usage{
		InputTokens: in, InputTokensDetails: inputDetails{TextTokens: in}, OutputTokens: out, TotalTokens: in + out,
	}
}
