package studio

import (
	"errors"
	"fmt"
	"image"
	"math"
)

// How a plain background is told from a product. Distances are Euclidean in 8-bit RGB, where black and white are
// 441 apart.
const (
	plainMin   = 0.6  // share of the border that must have the backdrop's colour
	plainNear  = 48.0 // so near counts as that colour: paper is never lit evenly
	floodNear  = 20.0 // background for certain
	floodFar   = 120  // the darkest and brightest that a vignette or shadow may be
	stepMax    = 9.0  // such light falls off softly; the edge of a product is steeper
	tintMax    = 18.0 // and it keeps the paper's tint
	shadeMin   = 0.45
	productMin = 0.002 // share of the picture below which there is no product
	holeMin    = 0.001 // share of the picture that paper seen through the product must have
	holeTint   = 6.0   // and so near its colour must be to the paper's, ...
	holeLight  = 0.06  // ... its light as well: a part of the product is rarely that exact
)

// cutout is a product cut from its background: how much of each pixel is product, in what colour, and how bright
// the paper was behind it, so that shadows fall on the new background too.
type cutout struct {
	w, h  int
	pix   []uint8 // the photo, RGBA; along the edge the colour of the product alone
	alpha []uint8 // 255 is all product
	shade []uint8 // 255 is paper in full light
}

var errNoProduct = errors.New("nothing stands in front of the background")

// cutOut finds the product on a plain background, or says why it cannot. A photo that comes with transparency has
// been cut out already.
func cutOut(src *image.RGBA) (*cutout, error) {
	w, h := src.Rect.Dx(), src.Rect.Dy()
	c := &cutout{w: w, h: h, pix: src.Pix, alpha: make([]uint8, w*h), shade: make([]uint8, w*h)}
	if transparentBorder(src) {
		c.takeAlpha()
		return c, nil
	}
	paper, share := borderColour(src)
	if share < plainMin {
		return nil, fmt.Errorf("the background is not plain: only %.0f %% of the border has one colour, %.0f %% are needed",
			share*100, plainMin*100)
	}
	soft := blur(src)
	background := c.flood(soft, paper)
	c.openHoles(background, soft, paper)
	product := 0
	for i, isPaper := range background {
		if isPaper {
			c.shade[i] = shadeOf(pixel(soft, i), paper)
			continue
		}
		product++
		c.alpha[i], c.shade[i] = 255, 255
	}
	if float64(product) < productMin*float64(w*h) {
		return nil, errNoProduct
	}
	c.softenEdge(background)
	return c, nil
}

// rgb is a colour to calculate with.
type rgb [3]float64

func pixel(pix []uint8, i int) rgb {
	p := pix[4*i : 4*i+3 : 4*i+3]
	return rgb{float64(p[0]), float64(p[1]), float64(p[2])}
}

func (a rgb) sub(b rgb) rgb          { return rgb{a[0] - b[0], a[1] - b[1], a[2] - b[2]} }
func (a rgb) scale(k float64) rgb    { return rgb{a[0] * k, a[1] * k, a[2] * k} }
func (a rgb) dot(b rgb) float64      { return a[0]*b[0] + a[1]*b[1] + a[2]*b[2] }
func (a rgb) distance(b rgb) float64 { d := a.sub(b); return math.Sqrt(d.dot(d)) }

// borderOf calls f with the index of each pixel on the two outermost rings.
func borderOf(w, h int, f func(i int)) {
	for y := range h {
		for x := range w {
			if y < 2 || y >= h-2 || x < 2 || x >= w-2 {
				f(y*w + x)
			} else if x == 2 {
				break
			}
		}
		for x := max(2, w-2); y >= 2 && y < h-2 && x < w; x++ {
			f(y*w + x)
		}
	}
}

func transparentBorder(src *image.RGBA) bool {
	transparent, all := 0, 0
	borderOf(src.Rect.Dx(), src.Rect.Dy(), func(i int) {
		all++
		if src.Pix[4*i+3] < 128 {
			transparent++
		}
	})
	return transparent > all/2
}

// takeAlpha uses the photo's own transparency; image.RGBA keeps colours multiplied by it.
func (c *cutout) takeAlpha() {
	c.pix = append([]uint8(nil), c.pix...)
	for i := range c.alpha {
		a := c.pix[4*i+3]
		c.alpha[i], c.shade[i] = a, 255
		if a > 0 {
			for k := range 3 {
				c.pix[4*i+k] = uint8(min(255, int(c.pix[4*i+k])*255/int(a)))
			}
		}
	}
}

// borderColour is the commonest colour of the border and the share of the border that is near it.
func borderColour(src *image.RGBA) (mean rgb, share float64) {
	const levels = 16
	var count [levels * levels * levels]int
	all, best := 0, 0
	bucket := func(i int) int {
		p := src.Pix[4*i:]
		return (int(p[0])/levels*levels+int(p[1])/levels)*levels + int(p[2])/levels
	}
	w, h := src.Rect.Dx(), src.Rect.Dy()
	borderOf(w, h, func(i int) {
		all++
		b := bucket(i)
		if count[b]++; count[b] > count[best] {
			best = b
		}
	})
	// Around the fullest bucket first, then around the mean of what was near it: light that falls off pulls the
	// colour of the paper away from a bucket's edge.
	half := levels / 2.0
	mean = rgb{
		float64(best/levels/levels*levels) + half, float64(best/levels%levels*levels) + half,
		float64(best%levels*levels) + half,
	}
	near := 0
	for range 2 {
		var sum rgb
		near = 0
		borderOf(w, h, func(i int) {
			if p := pixel(src.Pix, i); p.distance(mean) < plainNear {
				sum = sum.sub(p.scale(-1))
				near++
			}
		})
		if near == 0 {
			return mean, 0
		}
		mean = sum.scale(1 / float64(near))
	}
	return mean, float64(near) / float64(all)
}

// flood spreads from the border over everything that is paper: its colour, or the paper's tint reached by soft
// steps of light. Parts of the product that have the paper's colour stay, since the flood does not get there.
func (c *cutout) flood(soft []uint8, paper rgb) (background []bool) {
	background = make([]bool, c.w*c.h)
	seeds := make([]int32, 0, 4*(c.w+c.h))
	borderOf(c.w, c.h, func(i int) {
		if !background[i] && pixel(soft, i).distance(paper) < plainNear {
			background[i] = true
			seeds = append(seeds, int32(i))
		}
	})
	c.spread(background, soft, paper, seeds)
	return background
}

// openHoles finds the paper that is seen through the product, as through the handle of a mug.
func (c *cutout) openHoles(background []bool, soft []uint8, paper rgb) {
	var specks []int32 // stay marked until the end, so that no pixel is looked at twice
	for i := range background {
		if background[i] || !isHole(pixel(soft, i), paper) {
			continue
		}
		background[i] = true
		hole := c.spread(background, soft, paper, []int32{int32(i)})
		if float64(len(hole)) < holeMin*float64(c.w*c.h) {
			specks = append(specks, hole...)
		}
	}
	for _, i := range specks {
		background[i] = false
	}
}

func isHole(p, paper rgb) bool {
	k := p.dot(paper) / max(paper.dot(paper), 1)
	return math.Abs(k-1) < holeLight && p.distance(paper.scale(k)) < holeTint
}

// spread floods from the seeds, and returns all that is flooded.
func (c *cutout) spread(background []bool, soft []uint8, paper rgb, queue []int32) []int32 {
	for next := 0; next < len(queue); next++ {
		i := int(queue[next])
		x, here := i%c.w, pixel(soft, i)
		for _, n := range [4]int{i - c.w, i + c.w, i - 1, i + 1} {
			if n < 0 || n >= len(background) || background[n] || (n == i-1 && x == 0) || (n == i+1 && x == c.w-1) {
				continue
			}
			if there := pixel(soft, n); isPaper(here, there, paper) {
				background[n] = true
				queue = append(queue, int32(n))
			}
		}
	}
	return queue
}

func isPaper(here, there, paper rgb) bool {
	d := there.distance(paper)
	if d < floodNear {
		return true
	}
	if d > floodFar || there.distance(here) > stepMax {
		return false
	}
	k := there.dot(paper) / max(paper.dot(paper), 1)
	return k > shadeMin && there.distance(paper.scale(k)) < tintMax
}

// shadeOf is how bright the paper is at a pixel.
func shadeOf(p, paper rgb) uint8 {
	k := p.dot(paper) / max(paper.dot(paper), 1)
	return uint8(255 * min(max(k, shadeMin), 1))
}

// blur averages 3 × 3 pixels, so that the noise of a sensor or of JPEG is not taken for structure.
func blur(src *image.RGBA) []uint8 {
	w, h := src.Rect.Dx(), src.Rect.Dy()
	out := make([]uint8, len(src.Pix))
	for y := range h {
		top, bottom := max(y-1, 0), min(y+1, h-1)
		for x := range w {
			left, right := max(x-1, 0), min(x+1, w-1)
			var sum [3]int
			for yy := top; yy <= bottom; yy++ {
				for xx := left; xx <= right; xx++ {
					p := src.Pix[4*(yy*w+xx):]
					sum[0] += int(p[0])
					sum[1] += int(p[1])
					sum[2] += int(p[2])
				}
			}
			n := (bottom - top + 1) * (right - left + 1)
			o := out[4*(y*w+x):]
			o[0], o[1], o[2], o[3] = uint8(sum[0]/n), uint8(sum[1]/n), uint8(sum[2]/n), 255
		}
	}
	return out
}
