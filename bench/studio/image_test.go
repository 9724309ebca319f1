package studio

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// A few bytes that claim a picture of gigapixels are refused by their header.
func TestDecompressionBomb(t *testing.T) {
	t.Parallel()
	for _, size := range [][2]uint32{{60_000, 60_000}, {1, 100_000}, {5000, 5000}} {
		ihdr := []byte("IHDR")
		ihdr = binary.BigEndian.AppendUint32(ihdr, size[0])
		ihdr = binary.BigEndian.AppendUint32(ihdr, size[1])
		ihdr = append(ihdr, 8, 6, 0, 0, 0)
		b := append([]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0d"), ihdr...)
		b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(ihdr))
		_, err := decode(b)
		require.ErrorContains(t, err, "at most")
	}
	_, err := decode(bytes.Repeat([]byte{0}, pictureBytesMax+1))
	require.ErrorContains(t, err, "at most")
	whole := SamplePhoto(0)
	_, err = decode(whole[:len(whole)/2])
	require.ErrorContains(t, err, "damaged")
}

func TestCutOutSaysWhyNot(t *testing.T) {
	t.Parallel()
	img := image.NewRGBA(image.Rect(0, 0, 80, 60))
	fill(img, color.RGBA{R: 200, G: 210, B: 220, A: 255})
	_, err := cutOut(img)
	require.ErrorIs(t, err, errNoProduct)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range img.Pix {
		img.Pix[i] = uint8(rng.Uint32()) | uint8(i%4/3*255)
	}
	_, err = cutOut(img)
	require.ErrorContains(t, err, "not plain")
}

// The share of the sample photos that is cut out must be that of the product, whatever the paper's colour.
func TestCutOutOnManyPapers(t *testing.T) {
	t.Parallel()
	for _, paper := range []color.RGBA{{250, 250, 250, 255}, {20, 20, 24, 255}, {60, 160, 80, 255}, {200, 180, 230, 255}} {
		img := image.NewRGBA(image.Rect(0, 0, 200, 200))
		fill(img, paper)
		for y := 50; y < 150; y++ {
			for x := 50; x < 150; x++ {
				img.SetRGBA(x, y, color.RGBA{R: 190, G: 60, B: 40, A: 255})
			}
		}
		for y := 80; y < 120; y++ {
			for x := 80; x < 120; x++ {
				img.SetRGBA(x, y, color.RGBA{R: 230, G: 200, B: 60, A: 255})
			}
		}
		cut, err := cutOut(img)
		require.NoError(t, err)
		sum := 0
		for _, a := range cut.alpha {
			sum += int(a)
		}
		require.InDelta(t, 100*100, sum/255, 250, "%v", paper)
	}
}

// A photo that is transparent around the product keeps its own outline.
func TestCutOutUsesTransparency(t *testing.T) {
	t.Parallel()
	img := image.NewRGBA(image.Rect(0, 0, 20, 20))
	img.SetRGBA(10, 10, color.RGBA{R: 100, G: 50, A: 128})
	cut, err := cutOut(img)
	require.NoError(t, err)
	dst := backdrop{colour: color.RGBA{B: 200, A: 255}}.canvas(img.Rect)
	cut.over(dst)
	require.Equal(t, color.RGBA{B: 200, A: 255}, dst.RGBAAt(0, 0))
	require.Equal(t, color.RGBA{R: 100, G: 50, B: 100, A: 255}, dst.RGBAAt(10, 10))
}

func TestTinyPictures(t *testing.T) {
	t.Parallel()
	logo, err := decode(SampleLogo())
	require.NoError(t, err)
	for w := 1; w < 8; w++ {
		for h := 1; h < 8; h++ {
			img := image.NewRGBA(image.Rect(0, 0, w, h))
			fill(img, color.RGBA{R: 255, G: 255, B: 255, A: 255})
			img.SetRGBA(w/2, h/2, color.RGBA{A: 255})
			if cut, err := cutOut(img); err == nil {
				dst := backdrop{picture: logo}.canvas(img.Rect)
				cut.over(dst)
				placeLogo(dst, logo)
				placeLogo(dst, img)
				_ = cut.transparent()
			}
		}
	}
}

func TestSamplesAreStable(t *testing.T) {
	t.Parallel()
	again := SamplePhoto(5)
	require.Equal(t, SamplePhoto(5), again)
	require.NotEqual(t, SamplePhoto(1), SamplePhoto(5))
	require.NotPanics(t, func() { SamplePhoto(-3) })
	require.Less(t, len(SamplePhoto(0)), 200<<10)
}

func FuzzDecode(f *testing.F) {
	f.Add(SampleLogo())
	f.Add([]byte("\xff\xd8\xff"))
	f.Add([]byte("RIFF\x00\x00\x00\x00WEBPVP8 "))
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := decode(b)
		if err != nil || img.Rect.Dx()*img.Rect.Dy() > 1<<16 {
			return
		}
		if cut, err := cutOut(img); err == nil {
			cut.over(image.NewRGBA(img.Rect))
		}
	})
}

func BenchmarkApply(b *testing.B) {
	s := New(Options{})
	p := photo{data: SamplePhoto(0)}
	logo, err := decode(SampleLogo())
	require.NoError(b, err)
	j := job{background: backdrop{colour: color.RGBA{B: 120, A: 255}}, logo: logo}
	b.ReportAllocs()
	for b.Loop() {
		_, err := s.transform(&p, &j)
		require.NoError(b, err)
	}
}

func BenchmarkPicture(b *testing.B) {
	for i := 0; b.Loop(); i++ {
		_ = picture("a lake at dawn", i, defaultSide, defaultSide)
	}
}
