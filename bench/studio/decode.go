package studio

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"image"
	_ "image/jpeg" // a format that photos come in
	"image/png"
	"strings"
	"sync"

	"golang.org/x/image/draw"
	_ "golang.org/x/image/webp" // a format that photos come in
)

// Limits of one picture. A few kilobytes of PNG can claim gigapixels, so the header is looked at first; sixteen
// megapixels are 64 MB once decoded, and a worker has about five such buffers.
const (
	pictureBytesMax = 24 << 20
	pixelsMax       = 16 << 20
	sideMax         = 16_384
)

// decode reads PNG, JPEG or WebP. It always returns a picture that starts at 0,0.
func decode(data []byte) (*image.RGBA, error) {
	if len(data) > pictureBytesMax {
		return nil, fmt.Errorf("the picture has %d bytes, at most %d are read", len(data), pictureBytesMax)
	}
	c, format, err := image.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("not a PNG, JPEG or WebP picture: %w", err)
	}
	if c.Width < 1 || c.Height < 1 || c.Width > sideMax || c.Height > sideMax || c.Width*c.Height > pixelsMax {
		return nil, fmt.Errorf("the picture is %d × %d, at most %d pixels are worked on", c.Width, c.Height, pixelsMax)
	}
	img, _, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("the %s picture is damaged: %w", format, err)
	}
	if rgba, ok := img.(*image.RGBA); ok && rgba.Rect.Min == (image.Point{}) {
		return rgba, nil
	}
	rgba := image.NewRGBA(image.Rect(0, 0, img.Bounds().Dx(), img.Bounds().Dy()))
	draw.Draw(rgba, rgba.Rect, img, img.Bounds().Min, draw.Src)
	return rgba, nil
}

// unbase64 reads base64, plain or as a data URL.
func unbase64(s string) ([]byte, error) {
	if strings.HasPrefix(s, "data:") {
		if _, after, ok := strings.Cut(s, ";base64,"); ok {
			s = after
		}
	}
	if base64.StdEncoding.DecodedLen(len(s)) > pictureBytesMax+2 {
		return nil, fmt.Errorf("the picture has more than %d bytes", pictureBytesMax)
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("not base64: %w", err)
	}
	return b, nil
}

// encoder writes PNGs. Speed is chosen over size: compressing harder takes longer than all other work on a photo.
type encoder struct{ buffers sync.Pool }

// Get and Put make encoder a png.EncoderBufferPool.
func (e *encoder) Get() *png.EncoderBuffer {
	b, _ := e.buffers.Get().(*png.EncoderBuffer)
	return b
}

// Put takes a buffer back.
func (e *encoder) Put(b *png.EncoderBuffer) { e.buffers.Put(b) }

func (e *encoder) png(img image.Image) ([]byte, error) {
	var b bytes.Buffer
	enc := png.Encoder{CompressionLevel: png.BestSpeed, BufferPool: e}
	if err := enc.Encode(&b, img); err != nil {
		return nil, fmt.Errorf("write PNG: %w", err)
	}
	return b.Bytes(), nil
}
