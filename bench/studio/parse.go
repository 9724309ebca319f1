package studio

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"io"
	"mime/multipart"
	"path"
	"strconv"
	"strings"

	"github.com/valyala/fasthttp"
)

// photosMax bounds a request; the policies of the demo allow as many.
const photosMax = 50

// photo is one item of a request. Its err makes that item fail, not the request.
type photo struct {
	id   string
	data []byte
	err  error
}

// job is a parsed apply request.
type job struct {
	photos     []photo
	background backdrop
	logo       *image.RGBA // nil for none
}

// backdrop is what goes behind the products: a picture, or else a colour.
type backdrop struct {
	picture *image.RGBA
	colour  color.RGBA
}

// rawJob is a request before its pictures are decoded.
type rawJob struct {
	photos           []photo
	background, logo []byte
	colour           string // instead of background
}

func parseJob(ctx *fasthttp.RequestCtx) (job, error) {
	kind, _, _ := strings.Cut(string(ctx.Request.Header.ContentType()), ";")
	var raw rawJob
	var err error
	switch strings.TrimSpace(strings.ToLower(kind)) {
	case "multipart/form-data":
		raw, err = parseForm(ctx)
	case "application/json", "":
		raw, err = parseJSON(ctx.PostBody())
	default:
		return job{}, &problem{
			status: fasthttp.StatusUnsupportedMediaType, code: "unsupported_media_type",
			message: fmt.Sprintf("Content-Type is %q, must be application/json or multipart/form-data", kind),
		}
	}
	if err != nil {
		return job{}, err
	}
	return raw.read()
}

func parseJSON(b []byte) (raw rawJob, err error) {
	var body struct {
		Photos []struct {
			ID    string `json:"id"`
			Image string `json:"image"`
		} `json:"photos"`
		Background string `json:"background"`
		Logo       string `json:"logo"`
	}
	if err := json.Unmarshal(b, &body); err != nil {
		return raw, invalid("", "the body is not the expected JSON: "+err.Error())
	}
	for _, p := range body.Photos {
		data, err := unbase64(p.Image)
		raw.photos = append(raw.photos, photo{id: p.ID, data: data, err: err})
	}
	if strings.HasPrefix(body.Background, "#") {
		raw.colour = body.Background
	} else if raw.background, err = unbase64(body.Background); err != nil {
		return raw, unprocessable("background", "unreadable_background", "background is neither #rrggbb nor a picture: "+err.Error())
	}
	if raw.logo, err = unbase64(body.Logo); err != nil {
		return raw, unprocessable("logo", "unreadable_logo", "logo: "+err.Error())
	}
	return raw, nil
}

func parseForm(ctx *fasthttp.RequestCtx) (raw rawJob, err error) {
	boundary := string(ctx.Request.Header.MultipartFormBoundary())
	// In memory: the server has bounded the body already, and fasthttp's own reader would spill it to disk.
	form, err := multipart.NewReader(bytes.NewReader(ctx.PostBody()), boundary).ReadForm(bodyMax)
	if err != nil {
		return raw, invalid("", "the body is not a multipart form: "+err.Error())
	}
	for _, f := range append(form.File["photos"], form.File["photos[]"]...) {
		data, err := readPart(f)
		id := strings.TrimSuffix(path.Base(f.Filename), path.Ext(f.Filename))
		raw.photos = append(raw.photos, photo{id: id, data: data, err: err})
	}
	if v := form.Value["background"]; len(v) > 0 {
		raw.colour = v[0]
	}
	for name, to := range map[string]*[]byte{"background": &raw.background, "logo": &raw.logo} {
		if f := form.File[name]; len(f) > 0 {
			if *to, err = readPart(f[0]); err != nil {
				return raw, unprocessable(name, "unreadable_"+name, name+": "+err.Error())
			}
		}
	}
	return raw, nil
}

func readPart(h *multipart.FileHeader) ([]byte, error) {
	f, err := h.Open()
	if err != nil {
		return nil, fmt.Errorf("part %s: %w", h.Filename, err)
	}
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(f, pictureBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("part %s: %w", h.Filename, err)
	}
	return b, nil
}

// read decodes what all photos share, and checks what can be checked before the work.
func (raw rawJob) read() (j job, err error) {
	switch {
	case len(raw.photos) == 0:
		return j, invalid("photos", "photos is empty; at least one is needed")
	case len(raw.photos) > photosMax:
		return j, invalid("photos", fmt.Sprintf("%d photos, at most %d are worked on in one request", len(raw.photos), photosMax))
	case len(raw.background) == 0 && raw.colour == "":
		return j, unprocessable("background", "background_required",
			"background is missing: every transformation needs one, a logo alone cannot be applied")
	}
	j.photos = raw.photos
	for i := range j.photos {
		if j.photos[i].id == "" {
			j.photos[i].id = strconv.Itoa(i)
		}
	}
	if len(raw.background) > 0 {
		j.background.picture, err = decode(raw.background)
	} else {
		j.background.colour, err = parseColour(raw.colour)
	}
	if err != nil {
		return j, unprocessable("background", "unreadable_background", "background: "+err.Error())
	}
	if len(raw.logo) > 0 {
		if j.logo, err = decode(raw.logo); err != nil {
			return j, unprocessable("logo", "unreadable_logo", "logo: "+err.Error())
		}
	}
	return j, nil
}

func parseColour(s string) (color.RGBA, error) {
	hex, ok := strings.CutPrefix(strings.TrimSpace(s), "#")
	v, err := strconv.ParseUint(hex, 16, 32)
	if !ok || len(hex) != 6 || err != nil {
		return color.RGBA{}, fmt.Errorf("%q is not a colour such as #f4ede4", s)
	}
	return color.RGBA{R: uint8(v >> 16), G: uint8(v >> 8), B: uint8(v), A: 255}, nil
}
