package studio

import (
	"image"
	"math"
	"math/rand/v2"
	"strings"
)

// picture draws from a prompt; the same prompt, number and size give the same picture. It is a landscape, a shore
// or a flow of colour, in a palette that the words choose.
func picture(prompt string, number, w, h int) *image.RGBA {
	rng := dice(prompt, uint64(number))
	hue, night := mood(prompt, rng)
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	var at func(x, y, px float64) rgb
	switch rng.IntN(3) {
	case 0:
		at = hills(rng, hue, night)
	case 1:
		at = shore(rng, hue, night)
	default:
		at = flow(rng, hue, night)
	}
	px := 1 / float64(min(w, h))
	for i := range w * h {
		x, y := (float64(i%w)+0.5)*px, (float64(i/w)+0.5)*px
		c := at(x-float64(w)*px/2+0.5, y-float64(h)*px/2+0.5, px)
		grain := float64(grainOf(uint32(i))&0xff)/128 - 1 // hides the steps of 8-bit gradients
		setPixel(img.Pix, i, rgb{c[0] + grain, c[1] + grain, c[2] + grain})
	}
	return img
}

func grainOf(i uint32) uint32 {
	i ^= i >> 16
	i *= 0x7feb352d
	i ^= i >> 15
	i *= 0x846ca68b
	return i ^ i>>16
}

// mood chooses the hue (turns of OKLCH) and whether it is night; a few words are understood.
func mood(prompt string, rng *rand.Rand) (hue float64, night bool) {
	hue, night = rng.Float64(), rng.Float64() < 0.25
	for _, w := range [...]struct {
		words string
		hue   float64
		night bool
	}{
		{"sunset dawn desert fire autumn orange gold", 0.14, false},
		{"forest jungle moss meadow green spring", 0.38, false},
		{"sea ocean lake ice winter sky blue water", 0.64, false},
		{"rose pink cherry blossom red love", 0.02, false},
		{"violet purple lavender magic dream", 0.83, false},
		{"night star stars moon space galaxy dark midnight", 0.74, true},
	} {
		for word := range strings.FieldsFuncSeq(strings.ToLower(prompt), func(r rune) bool { return r < 'a' || r > 'z' }) {
			if strings.Contains(" "+w.words+" ", " "+word+" ") {
				hue, night = w.hue+0.04*(rng.Float64()-0.5), night || w.night
			}
		}
	}
	return hue, night
}

// waves is a line of layered sines, about -1 to 1; each layer is finer and lower.
type waves [6]struct{ frequency, phase, height float64 }

func newWaves(rng *rand.Rand, frequency, roughness float64) (w waves) {
	height := 0.55
	for i := range w {
		w[i].frequency, w[i].phase, w[i].height = frequency*(0.8+0.4*rng.Float64()), 2*math.Pi*rng.Float64(), height
		frequency, height = frequency*2.03, height*roughness
	}
	return w
}

func (w *waves) at(x float64) (y float64) {
	for _, l := range w {
		y += l.height * math.Sin(x*l.frequency+l.phase)
	}
	return y
}

// field is waves in two dimensions, about -1 to 1.
type field struct{ a, b waves }

func (f *field) at(x, y float64) float64 {
	sum := 0.0
	for i := range 4 {
		a, b := f.a[i], f.b[i]
		sum += a.height * math.Sin(x*a.frequency+y*b.frequency*0.6+a.phase) *
			math.Cos(y*a.frequency-x*b.frequency*0.5+b.phase)
	}
	return sum
}

// heaven is a sky with one light in it.
type heaven struct {
	colours      ramp // from the zenith to the horizon
	light        rgb
	x, y, radius float64
	clouds       field
	cloud        rgb
	stars        uint32 // 0 for none
}

func newHeaven(rng *rand.Rand, hue float64, night bool) heaven {
	s := heaven{
		x: 0.2 + 0.6*rng.Float64(), y: 0.2 + 0.25*rng.Float64(), radius: 0.045 + 0.035*rng.Float64(),
		clouds: field{newWaves(rng, 3, 0.6), newWaves(rng, 5, 0.6)},
	}
	if night {
		s.colours = ramp{oklch(0.2, 0.06, hue), oklch(0.3, 0.09, hue+0.02), oklch(0.48, 0.1, hue+0.08)}
		s.light, s.cloud, s.stars = oklch(0.96, 0.03, hue+0.4), oklch(0.42, 0.06, hue), rng.Uint32()|1
		return s
	}
	s.colours = ramp{oklch(0.66, 0.12, hue+0.06), oklch(0.8, 0.1, hue+0.01), oklch(0.93, 0.06, hue-0.05)}
	s.light, s.cloud = oklch(0.98, 0.05, hue-0.07), oklch(0.96, 0.02, hue)
	return s
}

// at is the sky's colour; horizon is where it ends.
func (s *heaven) at(x, y, horizon, px float64) rgb {
	c := s.colours.at(y / horizon)
	if s.stars != 0 {
		cell := 1 / 90.0
		cx, cy := math.Floor(x/cell), math.Floor(y/cell)
		dice := grainOf(s.stars + uint32(int32(cx))*7919 + uint32(int32(cy))*104729)
		if dice&31 == 0 {
			d := math.Hypot(x-(cx+0.2+0.6*float64(dice>>8&255)/255)*cell, y-(cy+0.2+0.6*float64(dice>>16&255)/255)*cell)
			c = c.mix(rgb{255, 252, 240}, (0.35+0.65*float64(dice>>24)/255)*smooth(1-d/max(0.0022, px)))
		}
	}
	drift := s.clouds.at(y*2.1+3, x*0.7)
	cloud := smooth((s.clouds.at(x+0.35*drift, (y+0.06*drift)*3.4)-0.15)*1.6) * smooth(1-y/horizon) * 0.55
	c = c.mix(s.cloud, cloud)
	d := math.Hypot(x-s.x, y-s.y)
	c = c.mix(s.light, 0.55*math.Exp(-sq(d/(s.radius*3.2)))+0.18*math.Exp(-d*3))
	return c.mix(s.light, smooth((s.radius-d)/(2*px)+0.5))
}

// hills are ridges behind each other, paler with distance.
func hills(rng *rand.Rand, hue float64, night bool) func(x, y, px float64) rgb {
	const ridges = 6
	sky := newHeaven(rng, hue, night)
	haze := sky.colours[len(sky.colours)-1]
	near := oklch(0.27, 0.07, hue+0.12)
	if night {
		near = oklch(0.13, 0.04, hue)
	}
	var lines [ridges]waves
	for i := range lines {
		lines[i] = newWaves(rng, 4+1.2*float64(i), 0.42+0.06*rng.Float64())
	}
	return func(x, y, px float64) rgb {
		c := sky.at(x, y, 0.7, px)
		for i := range lines {
			t := float64(i+1) / ridges
			top := 0.47 + 0.43*t*t + (0.05+0.05*t)*lines[i].at(x*(1.2-0.4*t)+float64(i))
			if y < top-px {
				continue
			}
			ground := haze.mix(near, math.Pow(t, 0.8))
			mist := math.Exp(-(y - top) * 9) // valleys fill with it
			ground = ground.mix(haze, 0.3*(1-mist)*(1-t))
			ground = ground.mix(sky.light, 0.10*mist*(1-t))
			c = c.mix(ground, smooth((y-top)/(2*px)+0.5))
		}
		return c
	}
}

// shore is water under a sky, with the light's path on it.
func shore(rng *rand.Rand, hue float64, night bool) func(x, y, px float64) rgb {
	sky := newHeaven(rng, hue, night)
	horizon := 0.56 + 0.08*rng.Float64()
	far, ripple := newWaves(rng, 5, 0.5), newWaves(rng, 9, 0.7)
	deep := oklch(0.3, 0.07, hue+0.08)
	if night {
		deep = oklch(0.14, 0.05, hue)
	}
	island := sky.colours[2].mix(deep, 0.6)
	return func(x, y, px float64) rgb {
		top := horizon - 0.025 - 0.035*far.at(x)
		if y < horizon {
			c := sky.at(x, y, horizon, px)
			return c.mix(island, smooth((y-top)/(2*px)+0.5))
		}
		depth := (y - horizon) / (1.1 - horizon)
		scale := 1 / (0.04 + depth) // waves look shorter far away
		wobble := ripple.at(scale*6+x*2) + 0.6*math.Sin(scale*23+x*14+3*ripple.at(x*3+scale))
		mirror := horizon - (y-horizon)*0.9 + 0.012*wobble*(0.3+depth)
		c := sky.at(x+0.008*wobble*(0.2+depth), max(mirror, 0.02), horizon, px)
		if mirror > top {
			c = island
		}
		c = c.mix(deep, 0.25+0.5*depth)
		path := math.Exp(-sq((x-sky.x+0.01*wobble)/(sky.radius*(0.7+1.6*depth)))) * smooth(wobble*0.9+0.35)
		return c.mix(sky.light, 0.75*path).mix(deep, 0.16*smooth(-wobble))
	}
}

// flow is colour that was poured: one field bends the place at which another is read.
func flow(rng *rand.Rand, hue float64, night bool) func(x, y, px float64) rgb {
	l := 0.0
	if night {
		l = -0.12
	}
	spread := 0.12 + 0.2*rng.Float64()
	colours := ramp{
		oklch(0.26+l, 0.09, hue+0.05), oklch(0.46+l, 0.14, hue), oklch(0.68+l, 0.15, hue-spread/2),
		oklch(0.86+l, 0.1, hue-spread), oklch(0.95+l/2, 0.04, hue-spread), oklch(0.62+l, 0.15, hue+spread),
	}
	u := field{newWaves(rng, 2.2, 0.55), newWaves(rng, 2.8, 0.55)}
	v := field{newWaves(rng, 2.6, 0.55), newWaves(rng, 2.1, 0.55)}
	w := field{newWaves(rng, 2.4, 0.5), newWaves(rng, 3, 0.5)}
	return func(x, y, _ float64) rgb {
		a, b := u.at(x, y), v.at(x, y)
		t := w.at(x+0.6*a, y+0.6*b)
		fold := math.Sin(9*t + 5*a) // where the paint lies double
		c := colours.at(0.5 + 0.5*t + 0.1*b + 0.05*fold)
		return c.mix(rgb{255, 255, 255}, 0.14*sq(smooth(fold))).mix(colours[0], 0.22*sq(smooth(-fold)))
	}
}
