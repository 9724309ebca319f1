package studio

import (
	"bytes"
	"encoding/base64"
	"image"
	"image/color"
	"image/png"
	"mime/multipart"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func resultsOf(t *testing.T, answer map[string]any) (list []map[string]any) {
	t.Helper()
	all, ok := answer["results"].([]any)
	require.True(t, ok, "%v", answer)
	for _, r := range all {
		list = append(list, r.(map[string]any))
	}
	return list
}

func pictureOf(t *testing.T, v any) image.Image {
	t.Helper()
	b, err := unbase64(v.(string))
	require.NoError(t, err)
	img, err := png.Decode(bytes.NewReader(b))
	require.NoError(t, err)
	return img
}

func near(t *testing.T, want color.RGBA, img image.Image, x, y int) {
	t.Helper()
	r, g, b, _ := img.At(x, y).RGBA()
	got := rgb{float64(r >> 8), float64(g >> 8), float64(b >> 8)}
	require.Less(t, got.distance(rgb{float64(want.R), float64(want.G), float64(want.B)}), 30.0, "at %d,%d: %v", x, y, got)
}

func sample(i int) *image.RGBA {
	img, _ := decode(SamplePhoto(i))
	return img
}

func TestApplyReplacesTheBackgroundAndPlacesTheLogo(t *testing.T) {
	t.Parallel()
	r := start(t)
	status, answer := r.post("/studio/apply", map[string]any{
		"photos": []any{
			map[string]any{"id": "mug", "image": SamplePhoto(0)},
			map[string]any{"id": "broken", "image": []byte("no picture")},
			map[string]any{"image": "data:image/jpeg;base64," + base64.StdEncoding.EncodeToString(SamplePhoto(1))},
			map[string]any{"id": "not base64", "image": "%%%"},
		},
		"background": "#20406a", "logo": SampleLogo(),
	})
	require.Equal(t, 200, status)
	list := resultsOf(t, answer)
	require.Len(t, list, 4)
	for i, id := range []string{"mug", "broken", "2", "not base64"} {
		require.Equal(t, id, list[i]["id"])
		require.Equal(t, []any{"ok", "failed"}[i%2], list[i]["status"])
		if i%2 == 1 {
			require.NotEmpty(t, list[i]["error"])
			require.NotContains(t, list[i], "image")
		}
	}
	mug := pictureOf(t, list[0]["image"])
	require.Equal(t, image.Rect(0, 0, 640, 640), mug.Bounds())
	blue := color.RGBA{R: 0x20, G: 0x40, B: 0x6a}
	for _, p := range [][2]int{{5, 5}, {630, 5}, {5, 630}, {320, 80}, {455, 320}} { // the last is inside the handle
		near(t, blue, mug, p[0], p[1])
	}
	near(t, sample(0).RGBAAt(320, 300), mug, 320, 300) // the product is as it was
	logo, err := decode(SampleLogo())
	require.NoError(t, err)
	near(t, logo.RGBAAt(180, 120), mug, 520, 554)
}

func TestApplyFormWithABackgroundPicture(t *testing.T) {
	t.Parallel()
	r := start(t)
	scene := image.NewRGBA(image.Rect(0, 0, 1280, 320)) // scaled by two it covers the photo, sides cut off
	for x := range 1280 {
		for y := range 320 {
			scene.SetRGBA(x, y, color.RGBA{R: 250, A: 255})
			if x < 480 || x >= 800 {
				scene.SetRGBA(x, y, color.RGBA{B: 250, A: 255})
			}
		}
	}
	var e encoder
	back, err := e.png(scene)
	require.NoError(t, err)
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	for name, data := range map[string][]byte{"photos\x00first.jpg": SamplePhoto(2), "background\x00b.png": back} {
		field, file, _ := strings.Cut(name, "\x00")
		part, err := w.CreateFormFile(field, file)
		require.NoError(t, err)
		_, _ = part.Write(data)
	}
	require.NoError(t, w.Close())
	status, answer := r.post("/studio/apply", form.Bytes(), "Content-Type", w.FormDataContentType())
	require.Equal(t, 200, status, answer)
	list := resultsOf(t, answer)
	require.Equal(t, "first", list[0]["id"])
	img := pictureOf(t, list[0]["image"])
	near(t, color.RGBA{R: 250}, img, 20, 20)
	near(t, color.RGBA{R: 250}, img, 620, 20)
}

func TestApplyRefuses(t *testing.T) {
	t.Parallel()
	r := start(t)
	photo := []any{map[string]any{"id": "a", "image": smallPhoto(t)}}
	many := make([]any, photosMax+1)
	for i := range many {
		many[i] = map[string]any{"image": ""}
	}
	for name, c := range map[string]struct {
		body   any
		status int
		code   string
	}{
		"a logo alone":          {map[string]any{"photos": photo, "logo": SampleLogo()}, 422, "background_required"},
		"a colour that is none": {map[string]any{"photos": photo, "background": "#12345"}, 422, "unreadable_background"},
		"a background picture":  {map[string]any{"photos": photo, "background": "aGVsbG8="}, 422, "unreadable_background"},
		"a logo that is none":   {map[string]any{"photos": photo, "background": "#ffffff", "logo": "aGVsbG8="}, 422, "unreadable_logo"},
		"no photos":             {map[string]any{"background": "#ffffff"}, 400, "invalid_value"},
		"too many photos":       {map[string]any{"photos": many, "background": "#ffffff"}, 400, "invalid_value"},
		"no JSON":               {[]byte("{"), 400, "invalid_value"},
	} {
		status, answer := r.post("/studio/apply", c.body)
		require.Equal(t, c.status, status, name)
		code, message := errorOf(t, answer)
		require.Equal(t, c.code, code, name)
		require.NotEmpty(t, message)
	}
	status, _ := r.post("/studio/apply", []byte("x"), "Content-Type", "text/plain")
	require.Equal(t, 415, status)
	status, _ = r.post("/studio/apply", []byte("x"), "Content-Type", "multipart/form-data; boundary=b")
	require.Equal(t, 400, status)
}

// smallPhoto is a square on white paper.
func smallPhoto(t *testing.T) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, 60, 60))
	for i := range 60 * 60 {
		c := rgb{255, 255, 255}
		if x, y := i%60, i/60; x > 20 && x < 40 && y > 20 && y < 40 {
			c = rgb{200, 40, 60}
		}
		setPixel(img.Pix, i, c)
	}
	var e encoder
	b, err := e.png(img)
	require.NoError(t, err)
	return b
}

func TestFailItems(t *testing.T) {
	t.Parallel()
	r := start(t)
	photos := make([]any, 0, 3)
	for _, id := range []string{"a", "b", "c"} {
		photos = append(photos, map[string]any{"id": id, "image": smallPhoto(t)})
	}
	for value, want := range map[string]string{"0": "+++", "2": "--+", "0,2": "-+-", "b": "+-+", "1,": "+-+"} {
		status, answer := r.post("/studio/apply", map[string]any{"photos": photos, "background": "#ffffff"}, headerFailItems, value)
		require.Equal(t, 200, status)
		var got []byte
		for _, item := range resultsOf(t, answer) {
			got = append(got, map[any]byte{"ok": '+', "failed": '-'}[item["status"]])
		}
		require.Equal(t, want, string(got), value)
	}
}
