package studio

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"

	"github.com/valyala/fasthttp"
)

// resolutionOf a model is how many squares the side of its mesh has; 0 means that there is no such model.
func resolutionOf(model string) int {
	return map[string]int{"turbo": 16, "pro": 32, "ultra": 64}[model]
}

// mesh answers a prompt with a small landscape as a Wavefront OBJ. Better models give finer ones.
func (s *Studio) mesh(ctx *fasthttp.RequestCtx, _ steering) reply {
	var body struct {
		Model  string `json:"model"`
		Prompt string `json:"prompt"`
	}
	if err := json.Unmarshal(ctx.PostBody(), &body); err != nil {
		return refusal(invalid("", "the body is not the expected JSON: "+err.Error()))
	}
	n := resolutionOf(body.Model)
	switch {
	case n == 0:
		return refusal(invalid("model", fmt.Sprintf("model is %q, must be turbo, pro or ultra", body.Model)))
	case body.Prompt == "" || len(body.Prompt) > promptMax:
		return refusal(invalid("prompt", fmt.Sprintf("prompt has %d bytes, must have 1 to %d", len(body.Prompt), promptMax)))
	}
	var obj []byte
	s.work(func() { obj = landscape(body.Prompt, n) })
	return jsonReply(fasthttp.StatusOK, map[string]any{
		"model": body.Model, "format": "obj", "vertices": (n + 1) * (n + 1), "faces": n * n, "mesh": string(obj),
	})
}

// trialResolution is coarser than that of any model.
const trialResolution = 8

// trial answers with a coarse landscape, with or without a prompt. A person who tries the product chooses no model.
func (s *Studio) trial(ctx *fasthttp.RequestCtx, _ steering) reply {
	var body struct {
		Prompt string `json:"prompt"`
	}
	switch err := json.Unmarshal(ctx.PostBody(), &body); {
	case err != nil:
		return refusal(invalid("", "the body is not the expected JSON: "+err.Error()))
	case len(body.Prompt) > promptMax:
		return refusal(invalid("prompt", fmt.Sprintf("prompt has %d bytes, must have at most %d", len(body.Prompt), promptMax)))
	}
	const n = trialResolution
	var obj []byte
	s.work(func() { obj = landscape(body.Prompt, n) })
	return jsonReply(fasthttp.StatusOK, map[string]any{
		"model": "trial", "format": "obj", "vertices": (n + 1) * (n + 1), "faces": n * n, "mesh": string(obj),
	})
}

func landscape(prompt string, n int) []byte {
	rng := dice(prompt, 0)
	height := field{newWaves(rng, 3, 0.5), newWaves(rng, 4, 0.5)}
	var b bytes.Buffer
	b.WriteString("# a landscape from a prompt\no landscape\n")
	for i := range (n + 1) * (n + 1) {
		x, z := float64(i%(n+1))/float64(n), float64(i/(n+1))/float64(n)
		fmt.Fprintf(&b, "v %.4f %.4f %.4f\n", x, 0.18*height.at(x, z), z)
	}
	for i := range n * n {
		at := i/n*(n+1) + i%n + 1 // OBJ counts from 1
		fmt.Fprintf(&b, "f %d %d %d %d\n", at, at+n+1, at+n+2, at+1)
	}
	return b.Bytes()
}

// pictureRequest is what the other two 3D tools take.
type pictureRequest struct {
	Image string `json:"image"`
	Style string `json:"style"`
}

// withPicture answers with what change makes of the request's picture.
func (s *Studio) withPicture(ctx *fasthttp.RequestCtx, change func(pictureRequest, *image.RGBA) (image.Image, error)) reply {
	var body pictureRequest
	if err := json.Unmarshal(ctx.PostBody(), &body); err != nil {
		return refusal(invalid("", "the body is not the expected JSON: "+err.Error()))
	}
	data, err := unbase64(body.Image)
	if err != nil {
		return refusal(unprocessable("image", "unreadable_image", "image: "+err.Error()))
	}
	var out []byte
	s.work(func() {
		var src *image.RGBA
		if src, err = decode(data); err != nil {
			return
		}
		var dst image.Image
		if dst, err = change(body, src); err == nil {
			out, err = s.encoder.png(dst)
		}
	})
	if err != nil {
		return refusal(unprocessable("image", "unreadable_image", "image: "+err.Error()))
	}
	return jsonReply(fasthttp.StatusOK, map[string]any{"image": out})
}

func (s *Studio) removeBackground(ctx *fasthttp.RequestCtx, _ steering) reply {
	return s.withPicture(ctx, func(_ pictureRequest, src *image.RGBA) (image.Image, error) {
		cut, err := cutOut(src)
		if err != nil {
			return nil, err
		}
		return cut.transparent(), nil
	})
}

// transferStyle paints a photo in the colours that the style's words choose: its light decides which.
func (s *Studio) transferStyle(ctx *fasthttp.RequestCtx, _ steering) reply {
	return s.withPicture(ctx, func(r pictureRequest, src *image.RGBA) (image.Image, error) {
		hue, _ := mood(r.Style, dice(r.Style, 0))
		colours := ramp{
			oklch(0.2, 0.06, hue+0.1), oklch(0.45, 0.13, hue+0.03), oklch(0.72, 0.13, hue-0.06), oklch(0.96, 0.04, hue-0.12),
		}
		for i := range len(src.Pix) / 4 {
			c := pixel(src.Pix, i)
			light := (0.299*c[0] + 0.587*c[1] + 0.114*c[2]) / 255
			alpha := src.Pix[4*i+3]
			setPixel(src.Pix, i, colours.at(light).mix(c, 0.15).scale(float64(alpha)/255))
			src.Pix[4*i+3] = alpha
		}
		return src, nil
	})
}
