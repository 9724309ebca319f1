package studio

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"image"
	"image/color"
	"image/png"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

// running is a studio behind a real listener.
type running struct {
	*Studio
	t      *testing.T
	url    string
	client *http.Client
}

func start(t *testing.T) running {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := New(Options{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		require.NoError(t, s.Shutdown(ctx))
		require.NoError(t, <-served)
	})
	return running{Studio: s, t: t, url: "http://" + ln.Addr().String(), client: client}
}

// post sends JSON (or bytes as they are) with headers given as pairs, and reads a JSON answer.
func (r running) post(path string, body any, headers ...string) (status int, answer map[string]any) {
	r.t.Helper()
	b, isBytes := body.([]byte)
	if !isBytes {
		var err error
		b, err = json.Marshal(body)
		require.NoError(r.t, err)
	}
	status, b, err := r.send(r.t.Context(), path, b, headers...)
	require.NoError(r.t, err)
	require.NoError(r.t, json.Unmarshal(b, &answer), string(b))
	return status, answer
}

func (r running) send(ctx context.Context, path string, body []byte, headers ...string) (status int, answer []byte, err error) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+path, bytes.NewReader(body))
	require.NoError(r.t, err)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// errorOf returns code and message of an error answer, which has OpenAI's shape on every route.
func errorOf(t *testing.T, answer map[string]any) (code, message string) {
	t.Helper()
	e, ok := answer["error"].(map[string]any)
	require.True(t, ok, "%v", answer)
	require.Contains(t, e, "type")
	require.Contains(t, e, "param")
	return e["code"].(string), e["message"].(string)
}

func TestRoutesAndStats(t *testing.T) {
	t.Parallel()
	r := start(t)
	status, answer := r.post("/nowhere", map[string]any{})
	require.Equal(t, 404, status)
	code, message := errorOf(t, answer)
	require.Equal(t, "not_found", code)
	require.Contains(t, message, "POST /nowhere")

	status, answer = r.post("/studio/report", map[string]any{"id": "p1", "reason": "a blue hair"})
	require.Equal(t, 202, status)
	again, same := r.post("/studio/report", map[string]any{"id": "p1", "reason": "a blue hair"})
	require.Equal(t, 202, again)
	require.Equal(t, answer, same)
	status, _ = r.post("/studio/report", map[string]any{})
	require.Equal(t, 400, status)

	status, answer = r.post("/studio/revert", map[string]any{"photos": []any{map[string]any{"id": "a"}, map[string]any{"id": "b"}}},
		headerFailItems, "b")
	require.Equal(t, 200, status)
	require.Equal(t, "ok", resultsOf(t, answer)[0]["status"])
	require.Equal(t, "failed", resultsOf(t, answer)[1]["status"])
	status, _ = r.post("/studio/revert", map[string]any{})
	require.Equal(t, 400, status)

	require.EqualValues(t, 3, r.Calls("POST /studio/report"))
	require.EqualValues(t, 2, r.Calls("POST /studio/revert"))
	require.EqualValues(t, 1, r.Calls("other"))
	require.Zero(t, r.Calls("POST /studio/apply"))
	resp, err := r.client.Get(r.url + "/studio/stats")
	require.NoError(t, err)
	defer resp.Body.Close()
	var stats struct{ Calls map[string]int64 }
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&stats))
	require.Equal(t, r.Stats(), stats.Calls)
}

func TestBadSteeringIs400(t *testing.T) {
	t.Parallel()
	r := start(t)
	for _, h := range [][2]string{
		{headerLatency, "soon"},
		{headerLatency, "-1s"},
		{headerLatency, "11m"},
		{headerLatency, "99999999999"},
		{headerFailRate, "2"},
		{headerFailRate, "-0.1"},
		{headerFailRate, "NaN"},
		{headerFailRate, "half"},
		{headerFailItems, "-1"},
		{headerFailItems, ","},
		{headerHang, "maybe"},
		{headerReset, "2"},
	} {
		status, answer := r.post("/studio/report", map[string]any{"id": "p"}, h[0], h[1])
		require.Equal(t, 400, status, h)
		code, message := errorOf(t, answer)
		require.Equal(t, "bad_steering", code)
		require.Contains(t, message, h[0]+` is "`+h[1]+`", must be `)
	}
}

func TestSteeredFailureAndLatency(t *testing.T) {
	t.Parallel()
	r := start(t)
	report := map[string]any{"id": "p"}
	status, answer := r.post("/studio/report", report, headerFailRate, "1")
	require.Equal(t, 500, status)
	code, _ := errorOf(t, answer)
	require.Equal(t, "steered_failure", code)
	status, _ = r.post("/studio/report", report, headerFailRate, "0")
	require.Equal(t, 202, status)
	for _, v := range []string{"30", "30ms"} {
		begin := time.Now()
		status, _ = r.post("/studio/report", report, headerLatency, v)
		require.Equal(t, 202, status)
		require.GreaterOrEqual(t, time.Since(begin), 30*time.Millisecond)
	}
}

func TestReset(t *testing.T) {
	t.Parallel()
	r := start(t)
	for _, v := range []string{"before", "body", "true"} {
		status, part, err := r.send(t.Context(), "/studio/report", []byte(`{"id":"p"}`), headerReset, v)
		require.Error(t, err)
		require.True(t, errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrUnexpectedEOF), "%v", err)
		if v == "before" {
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.Zero(t, status)
		}
		require.False(t, json.Valid(part), "never a whole answer")
	}
}

func TestHang(t *testing.T) {
	t.Parallel()
	r := start(t)
	for _, v := range []string{"true", "body"} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, _, err := r.send(ctx, "/studio/report", []byte(`{"id":"p"}`), headerHang, v)
			done <- err
		}()
		require.Eventually(t, func() bool { return r.hanging() == 1 }, 10*time.Second, time.Millisecond)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		require.Eventually(t, func() bool { return r.hanging() == 0 }, 10*time.Second, time.Millisecond, "the client went away")
	}
}

func (s *Studio) hanging() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.hung)
}

func TestShutdownEndsWaits(t *testing.T) {
	t.Parallel()
	r := start(t)
	done := make(chan error, 2)
	status := make(chan int, 1)
	go func() {
		_, _, err := r.send(t.Context(), "/studio/report", []byte(`{"id":"p"}`), headerHang, "true")
		done <- err
	}()
	go func() {
		s, _, err := r.send(t.Context(), "/studio/revert", []byte(`{}`), headerLatency, "10m")
		status <- s
		done <- err
	}()
	require.Eventually(t, func() bool { return r.hanging() == 1 && r.Calls("POST /studio/revert") == 1 },
		10*time.Second, time.Millisecond)
	require.NoError(t, r.Shutdown(t.Context()))
	require.Equal(t, 503, <-status)
	errs := []error{<-done, <-done}
	require.Error(t, errors.Join(errs...))
}

func TestWorkersBoundTheWork(t *testing.T) {
	t.Parallel()
	s := New(Options{Workers: 2})
	var now, most, all atomic.Int32
	s.each(40, func(int) {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		all.Add(1)
		now.Add(-1)
	})
	require.EqualValues(t, 40, all.Load())
	require.LessOrEqual(t, most.Load(), int32(2))
}

// --- apply ---

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
			map[string]any{"image": "data:image/jpeg;base64," + b64(SamplePhoto(1))},
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

func b64(b []byte) string {
	v, _ := json.Marshal(b)
	return strings.Trim(string(v), `"`)
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
	for value, want := range map[string]string{"0": "ok ok ok", "2": "failed failed ok", "0,2": "failed ok failed", "b": "ok failed ok", "1,": "ok failed ok"} {
		status, answer := r.post("/studio/apply", map[string]any{"photos": photos, "background": "#ffffff"}, headerFailItems, value)
		require.Equal(t, 200, status)
		var got []string
		for _, item := range resultsOf(t, answer) {
			got = append(got, item["status"].(string))
		}
		require.Equal(t, want, strings.Join(got, " "), value)
	}
}

// --- other routes ---

func TestGenerate(t *testing.T) {
	t.Parallel()
	r := start(t)
	const path = "/v1/images/generations"
	status, first := r.post(path, map[string]any{"prompt": "a lake at dawn", "n": 3, "size": "64x48", "model": "any"})
	require.Equal(t, 200, status)
	data := first["data"].([]any)
	require.Len(t, data, 3)
	require.Equal(t, image.Rect(0, 0, 64, 48), pictureOf(t, data[0].(map[string]any)["b64_json"]).Bounds())
	require.NotEqual(t, data[0], data[1])
	require.NotZero(t, first["created"])
	require.Equal(t, map[string]any{
		"input_tokens": 4., "input_tokens_details": map[string]any{"image_tokens": 0., "text_tokens": 4.},
		"output_tokens": 12., "total_tokens": 16.,
	}, first["usage"])
	_, again := r.post(path, map[string]any{"prompt": "a lake at dawn", "n": 3, "size": "64x48"})
	require.Equal(t, data, again["data"], "the same words, the same pictures")

	status, one := r.post(path, map[string]any{"prompt": "x", "n": nil, "response_format": "b64_json"})
	require.Equal(t, 200, status)
	require.Equal(t, "256x256", one["size"])
	require.Len(t, one["data"], 1)

	_, fewer := r.post(path, map[string]any{"prompt": "x", "n": 3, "size": "16x16"}, headerFailItems, "2")
	require.Len(t, fewer["data"], 1)
	_, none := r.post(path, map[string]any{"prompt": "x", "size": "16x16"}, headerFailItems, "1")
	require.Equal(t, []any{}, none["data"])
}

func TestGenerateRefuses(t *testing.T) {
	t.Parallel()
	r := start(t)
	for param, body := range map[string]map[string]any{
		"prompt":          {},
		"n":               {"prompt": "x", "n": 11},
		"size":            {"prompt": "x", "size": "4000x4000"},
		"response_format": {"prompt": "x", "response_format": "url"},
		"output_format":   {"prompt": "x", "output_format": "gif"},
		"stream":          {"prompt": "x", "stream": true},
	} {
		status, answer := r.post("/v1/images/generations", body)
		require.Equal(t, 400, status, param)
		require.Equal(t, param, answer["error"].(map[string]any)["param"])
	}
	for size, ok := range map[string]bool{
		"auto": true, "256x256": true, "512x512": true, "1024x1024": true, "1024x1536": true, "1536x1024": true, "1792x1024": true,
		"1024x1792": true, "1793x16": false, "15x15": false, "x": false, "16": false, "1e2x16": false, "-16x-16": false, "1792x1792": false,
	} {
		_, _, got := parseSize(size)
		require.Equal(t, ok, got, size)
	}
}

func Test3D(t *testing.T) {
	t.Parallel()
	r := start(t)
	status, mesh := r.post("/3d/generations", map[string]any{"model": "turbo", "prompt": "dunes"})
	require.Equal(t, 200, status)
	obj := mesh["mesh"].(string)
	require.Equal(t, 17*17, strings.Count(obj, "\nv "))
	require.Equal(t, 16*16, strings.Count(obj, "\nf "))
	status, _ = r.post("/3d/generations", map[string]any{"model": "best", "prompt": "dunes"})
	require.Equal(t, 400, status)

	status, cut := r.post("/3d/background-removal", map[string]any{"image": SamplePhoto(0)})
	require.Equal(t, 200, status)
	img := pictureOf(t, cut["image"])
	_, _, _, corner := img.At(3, 3).RGBA()
	_, _, _, middle := img.At(320, 300).RGBA()
	require.Less(t, corner>>8, uint32(40), "only the shade of the paper is left")
	require.EqualValues(t, 0xffff, middle)

	status, styled := r.post("/3d/style-transfer", map[string]any{"image": smallPhoto(t), "style": "autumn"})
	require.Equal(t, 200, status)
	require.Equal(t, image.Rect(0, 0, 60, 60), pictureOf(t, styled["image"]).Bounds())
	for _, path := range []string{"/3d/background-removal", "/3d/style-transfer"} {
		status, _ = r.post(path, map[string]any{"image": "aGVsbG8="})
		require.Equal(t, 422, status)
	}
}
