package studio

import (
	"image"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

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
		"auto": true, "256x256": true, "512x512": true, "1024x1024": true, "1024x1536": true, "1536x1024": true,
		"1792x1024": true, "1024x1792": true, "1793x16": false, "15x15": false, "x": false, "16": false,
		"1e2x16": false, "-16x-16": false, "1792x1792": false,
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

	for _, body := range []map[string]any{{}, {"prompt": "dunes"}} {
		status, mesh = r.post("/3d/trial", body)
		require.Equal(t, 200, status)
		require.Equal(t, 8*8, strings.Count(mesh["mesh"].(string), "\nf "))
	}
	status, _ = r.post("/3d/trial", map[string]any{"prompt": 7})
	require.Equal(t, 400, status)

	status, cut := r.post("/3d/background-removal", map[string]any{"image": SamplePhoto(0)})
	require.Equal(t, 200, status)
	img := pictureOf(t, cut["image"])
	cutImg, ok := img.(*image.NRGBA)
	require.True(t, ok)
	require.Less(t, cutImg.NRGBAAt(3, 3).A, uint8(40), "only the shade of the paper is left")
	require.Equal(t, uint8(255), cutImg.NRGBAAt(320, 300).A)

	status, styled := r.post("/3d/style-transfer", map[string]any{"image": smallPhoto(t), "style": "autumn"})
	require.Equal(t, 200, status)
	require.Equal(t, image.Rect(0, 0, 60, 60), pictureOf(t, styled["image"]).Bounds())
	for _, path := range []string{"/3d/background-removal", "/3d/style-transfer"} {
		status, _ = r.post(path, map[string]any{"image": "aGVsbG8="})
		require.Equal(t, 422, status)
	}
}
