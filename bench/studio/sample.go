package studio

import (
	"bytes"
	"image"
	"image/jpeg"
	"math"
)

// sampleSide is the size of the samples: large enough to look like photos, small enough that fifty of them in
// base64 fit the gateway's body limit many times.
const sampleSide = 640

// product is a thing turned on a lathe, seen from the side: its radius by height, both of the picture's side.
type product struct {
	top, bottom float64
	radius      func(t float64) float64 // t is 0 at the top, 1 at the bottom
	handle      bool
	band        [2]float64 // between these heights it has its second colour
}

func products() []product {
	return []product{
		{ // a mug
			top: 0.32, bottom: 0.76, handle: true, band: [2]float64{0.62, 0.8},
			radius: func(t float64) float64 { return 0.18 - 0.012*t*t - 0.035*sq(smooth((t-0.9)/0.1)) },
		},
		{ // a bottle
			top: 0.14, bottom: 0.84, band: [2]float64{0.48, 0.8},
			radius: func(t float64) float64 {
				return 0.045 + 0.012*(edge(t, 0.0)-edge(t, 0.055)) + 0.075*smooth((t-0.2)/0.2) - 0.02*sq(smooth((t-0.94)/0.06))
			},
		},
		{ // a vase
			top: 0.2, bottom: 0.82, band: [2]float64{0.3, 0.36},
			radius: func(t float64) float64 {
				return 0.07 + 0.1*math.Pow(math.Sin(math.Pi*min(1, 0.12+0.83*t)), 1.6) + 0.02*smooth(1-t*9)
			},
		},
		{ // a lamp
			top: 0.16, bottom: 0.84, band: [2]float64{0, 0.475},
			radius: func(t float64) float64 {
				shade := (0.11 + 0.17*t) * (1 - edge(t, 0.46))
				stem := 0.014 + 0.13*smooth((t-0.86)/0.12)
				return max(shade, stem)
			},
		},
	}
}

// edge is a step that takes a hundredth.
func edge(t, at float64) float64 { return smooth((t - at) / 0.01) }

// SamplePhoto is the i-th photo of a product on a plain background, as a JPEG: procedural, the same every time,
// with the uneven light, the shadow and the noise that photos have.
func SamplePhoto(i int) []byte {
	kinds := products()
	p := kinds[((i%len(kinds))+len(kinds))%len(kinds)]
	rng := dice("sample", uint64(i))
	hue := math.Mod(0.08+0.382*float64(i), 1)
	paper := oklch(0.95-0.04*rng.Float64(), 0.012*rng.Float64(), rng.Float64())
	body, band := oklch(0.58, 0.13, hue), oklch(0.86, 0.06, hue+0.45)
	img := image.NewRGBA(image.Rect(0, 0, sampleSide, sampleSide))
	for n := range sampleSide * sampleSide {
		x, y := (float64(n%sampleSide)+0.5)/sampleSide, (float64(n/sampleSide)+0.5)/sampleSide
		c := p.backdropAt(x, y, paper)
		if over, a := p.at(x, y, body, band); a > 0 {
			c = c.mix(over, a)
		}
		noise := rng.NormFloat64() * 1.6
		setPixel(img.Pix, n, rgb{c[0] + noise, c[1] + noise, c[2] + noise})
	}
	var b bytes.Buffer
	_ = jpeg.Encode(&b, img, &jpeg.Options{Quality: 90}) // a bytes.Buffer takes everything
	return b.Bytes()
}

func setPixel(pix []uint8, i int, c rgb) {
	for k := range 3 {
		pix[4*i+k] = uint8(min(max(c[k]+0.5, 0), 255))
	}
	pix[4*i+3] = 255
}

// backdropAt is the paper, darker towards the corners and where the product stands.
func (p product) backdropAt(x, y float64, paper rgb) rgb {
	cx, cy := x-0.5, y-0.45
	light := 1 - 0.1*(cx*cx+cy*cy)
	sx, sy := (x-0.53)/(p.radius(0.99)+0.09), (y-p.bottom)/0.035
	shadow := math.Exp(-(sx*sx*sx*sx + sy*sy) * 1.4)
	return paper.scale(light * (1 - 0.3*shadow))
}

// at is the product's colour at a point, and how much of the point it covers.
func (p product) at(x, y float64, body, band rgb) (c rgb, cover float64) {
	const px = 1.2 / sampleSide // the width of an edge in a sharp photo
	t := (y - p.top) / (p.bottom - p.top)
	r := p.radius(min(max(t, 0), 1))
	bulge := 0.02 * math.Sqrt(max(0, 1-sq((x-0.5)/r))) // seen from slightly above, the foot is round
	inside := min(r-math.Abs(x-0.5), y-p.top+0.3*bulge, p.bottom+bulge-y)
	cover = smooth(inside/px + 0.5)
	if p.handle {
		d := math.Hypot((x-0.5-r)/0.09, (y-0.5)/0.115)
		ring := 0.026 - math.Abs(d-1)*0.09
		if grip := smooth(ring/px + 0.5); grip > cover && x > 0.5 {
			return body.scale(0.8 + 0.25*smooth(1-d)), grip
		}
	}
	if cover == 0 {
		return c, 0
	}
	c = body
	if t > p.band[0] && t < p.band[1] {
		c = band
	}
	n := min(max((x-0.5)/r, -1), 1)
	light := 0.5 + 0.55*math.Pow(max(0, math.Sqrt(1-n*n)*0.8-n*0.45), 0.8)
	gloss := math.Exp(-sq((n+0.42)/0.09)) * 0.35 * smooth((t-0.03)*12) * smooth((0.97-t)*12)
	c = c.scale(light).mix(rgb{255, 255, 255}, gloss)
	if p.handle && t < 0.055 { // one looks into the mug
		c = body.scale(0.45 + 0.3*(n+1)/2)
	}
	return c, cover
}

func sq(v float64) float64 { return v * v }

// SampleLogo is a logo with a transparent background, as a PNG.
func SampleLogo() []byte {
	const w, h = 360, 240
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	from, to := oklch(0.55, 0.2, 0.75), oklch(0.7, 0.17, 0.97)
	for i := range w * h {
		x, y := float64(i%w)+0.5, float64(i/w)+0.5
		// Three overlapping discs, the middle one in front, with a gap between them.
		a, c := 0.0, rgb{}
		for n, cx := range [3]float64{95, 265, 180} {
			d := math.Hypot(x-cx, y-h/2)
			c0 := from.mix(to, cx/w).scale(1 + 0.12*float64(n-1))
			a *= 1 - smooth(92-d) // a gap around the disc that comes next
			if disc := smooth(82 - d); disc > 0 {
				a, c = max(a, disc), c0.mix(rgb{255, 255, 255}, 0.25*smooth((h/2-y)/120))
			}
		}
		setPixel(img.Pix, i, c)
		img.Pix[4*i+3] = uint8(255 * a)
	}
	var e encoder
	b, _ := e.png(img) // a bytes.Buffer takes everything
	return b
}
