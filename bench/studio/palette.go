package studio

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/rand/v2"
)

// dice is chance that is the same for the same words.
func dice(words string, i uint64) *rand.Rand {
	sum := sha256.Sum256([]byte(words))
	return rand.New(rand.NewPCG(binary.LittleEndian.Uint64(sum[:]), binary.LittleEndian.Uint64(sum[8:])+i))
}

// oklch is a colour by lightness (0–1), chroma (0–0.3) and hue (turns), evenly as eyes see it. Colours picked in it
// go together, which colours picked in RGB do not.
func oklch(l, c, hue float64) rgb {
	sin, cos := math.Sincos(2 * math.Pi * hue)
	a, b := c*cos, c*sin
	cube := func(v float64) float64 { return v * v * v }
	l3 := cube(l + 0.3963377774*a + 0.2158037573*b)
	m3 := cube(l - 0.1055613458*a - 0.0638541728*b)
	s3 := cube(l - 0.0894841775*a - 1.2914855480*b)
	return rgb{
		gamma(4.0767416621*l3 - 3.3077115913*m3 + 0.2309699292*s3),
		gamma(-1.2684380046*l3 + 2.6097574011*m3 - 0.3413193965*s3),
		gamma(-0.0041960863*l3 - 0.7034186147*m3 + 1.7076147010*s3),
	}
}

func gamma(v float64) float64 {
	v = min(max(v, 0), 1)
	if v <= 0.0031308 {
		return 255 * 12.92 * v
	}
	return 255 * (1.055*math.Pow(v, 1/2.4) - 0.055)
}

func (a rgb) mix(b rgb, t float64) rgb {
	return rgb{a[0] + (b[0]-a[0])*t, a[1] + (b[1]-a[1])*t, a[2] + (b[2]-a[2])*t}
}

// ramp is a row of colours, read at 0–1.
type ramp []rgb

func (r ramp) at(t float64) rgb {
	t = min(max(t, 0), 1) * float64(len(r)-1)
	i := min(int(t), len(r)-2)
	return r[i].mix(r[i+1], smooth(t-float64(i)))
}

func smooth(t float64) float64 {
	t = min(max(t, 0), 1)
	return t * t * (3 - 2*t)
}
