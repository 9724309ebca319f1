package studio

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"image"

	"github.com/valyala/fasthttp"
)

// result is the outcome of one photo.
type result struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Image  []byte `json:"image,omitempty"` // a PNG; JSON carries it in base64
	Error  string `json:"error,omitempty"`
}

// The statuses of an item.
const (
	statusOK     = "ok"
	statusFailed = "failed"
)

type results struct {
	Results []result `json:"results"`
}

// apply puts each photo's product in front of a new background, and a logo on top. A photo that cannot be done
// fails alone; the answer is a 200 that says so.
func (s *Studio) apply(ctx *fasthttp.RequestCtx, steer steering) reply {
	j, err := parseJob(ctx)
	if err != nil {
		return refusal(err)
	}
	out := make([]result, len(j.photos))
	s.each(len(out), func(i int) {
		p := &j.photos[i]
		if steer.failsItem(i, p.id) {
			p.err = fmt.Errorf("failed because %s asked for it", headerFailItems)
		}
		img, err := s.transform(p, &j)
		if err != nil {
			out[i] = result{ID: p.id, Status: statusFailed, Error: err.Error()}
			return
		}
		out[i] = result{ID: p.id, Status: statusOK, Image: img}
	})
	return jsonReply(fasthttp.StatusOK, results{Results: out})
}

func (s *Studio) transform(p *photo, j *job) ([]byte, error) {
	if p.err != nil {
		return nil, p.err
	}
	src, err := decode(p.data)
	if err != nil {
		return nil, err
	}
	cut, err := cutOut(src)
	if err != nil {
		return nil, err
	}
	dst := j.background.canvas(src.Rect)
	cut.over(dst)
	if j.logo != nil {
		placeLogo(dst, j.logo)
	}
	return s.encoder.png(dst)
}

// revert answers for each photo that it is as it was. The studio keeps no photos, so there is nothing else to do:
// the originals are with the caller.
func (s *Studio) revert(ctx *fasthttp.RequestCtx, steer steering) reply {
	var body struct {
		Photos []struct {
			ID string `json:"id"`
		} `json:"photos"`
	}
	if err := json.Unmarshal(ctx.PostBody(), &body); err != nil {
		return refusal(invalid("", "the body is not the expected JSON: "+err.Error()))
	}
	if n := len(body.Photos); n == 0 || n > photosMax {
		return refusal(invalid("photos", fmt.Sprintf("%d photos, must be 1 to %d", n, photosMax)))
	}
	out := make([]result, len(body.Photos))
	for i, p := range body.Photos {
		out[i] = result{ID: p.ID, Status: statusOK}
		if steer.failsItem(i, p.ID) {
			out[i] = result{ID: p.ID, Status: statusFailed, Error: "failed because " + headerFailItems + " asked for it"}
		}
	}
	return jsonReply(fasthttp.StatusOK, results{Results: out})
}

// report takes a complaint about an image. Its number is made from its content, so the same complaint gets the same
// number however often it is sent.
func (s *Studio) report(ctx *fasthttp.RequestCtx, _ steering) reply {
	var body struct {
		ID     string `json:"id"`
		Reason string `json:"reason"`
	}
	if err := json.Unmarshal(ctx.PostBody(), &body); err != nil {
		return refusal(invalid("", "the body is not the expected JSON: "+err.Error()))
	}
	if body.ID == "" {
		return refusal(invalid("id", "id is missing: which image is faulty?"))
	}
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%q %q", body.ID, body.Reason)
	return jsonReply(fasthttp.StatusAccepted, map[string]string{
		"report": fmt.Sprintf("rep-%016x", h.Sum64()), "id": body.ID, "status": "received",
	})
}

// canvas is the backdrop at the size of a photo.
func (b backdrop) canvas(size image.Rectangle) *image.RGBA {
	dst := image.NewRGBA(size)
	if b.picture != nil {
		cover(dst, b.picture)
		return dst
	}
	fill(dst, b.colour)
	return dst
}
