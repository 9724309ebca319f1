package studio

import (
	"math"
	"slices"
)

// Along the edge of a product a pixel holds both product and paper. The mix is undone with a look at what lies a few
// pixels further in and further out.
const (
	edgeWidth = 2   // pixels on each side that may be mixed
	reach     = 4   // how far to look for the pure colours
	clearMin  = 30. // product and paper must be so far apart for the mix to be told
)

// softenEdge replaces the hard edge between product and background: each pixel near it gets the share of product in
// it, and the product's own colour without the paper's.
func (c *cutout) softenEdge(background []bool) {
	mixed := slices.Clone(c.pix)
	for y := range c.h {
		for x := range c.w {
			i := y*c.w + x
			dx, dy, near := c.outward(background, x, y)
			if !near {
				continue
			}
			out, okOut := c.pure(background, x, y, dx, dy, true)
			in, okIn := c.pure(background, x, y, -dx, -dy, false)
			if !okOut || !okIn {
				continue
			}
			c.unmix(mixed, i, pixel(c.pix, i), pixel(c.pix, in), pixel(c.pix, out))
			if !background[i] {
				c.shade[i] = c.shade[out]
			}
		}
	}
	c.pix = mixed
}

// unmix sets alpha and colour of a pixel that lies on the line between the pure colours.
func (c *cutout) unmix(to []uint8, i int, mix, product, paper rgb) {
	span := product.sub(paper)
	if span.dot(span) < clearMin*clearMin {
		return
	}
	a := mix.sub(paper).dot(span) / span.dot(span)
	switch {
	case a > 0.97:
		c.alpha[i] = 255
		return
	case a < 0.03:
		c.alpha[i] = 0
		return
	}
	c.alpha[i] = uint8(255 * a)
	for k := range 3 { // the pure colour, bent towards what the pixel itself says where that is reliable
		own := (mix[k] - (1-a)*paper[k]) / a
		to[4*i+k] = uint8(min(max(product[k]*(1-a)+own*a, 0), 255))
	}
}

// outward is the direction from a pixel near the edge to the background: away from the product pixels around it.
func (c *cutout) outward(background []bool, x, y int) (dx, dy float64, near bool) {
	here := background[y*c.w+x]
	sx, sy, n := 0, 0, 0
	for yy := max(y-edgeWidth, 0); yy <= min(y+edgeWidth, c.h-1); yy++ {
		for xx := max(x-edgeWidth, 0); xx <= min(x+edgeWidth, c.w-1); xx++ {
			other := background[yy*c.w+xx]
			if other != here {
				near = true
			}
			if other {
				sx, sy, n = sx+xx-x, sy+yy-y, n+1
			} else {
				sx, sy = sx-(xx-x), sy-(yy-y)
			}
		}
	}
	if !near || (sx == 0 && sy == 0) {
		return 0, 0, false
	}
	length := max(abs(sx), abs(sy))
	return float64(sx) / float64(length), float64(sy) / float64(length), true
}

// pure finds the first pixel in a direction that is beyond the mixed ones, on the wanted side of the edge.
func (c *cutout) pure(background []bool, x, y int, dx, dy float64, wantPaper bool) (i int, ok bool) {
	for step := reach; step >= edgeWidth; step-- {
		xx, yy := x+int(math.Round(dx*float64(step))), y+int(math.Round(dy*float64(step)))
		if xx < 0 || yy < 0 || xx >= c.w || yy >= c.h {
			continue
		}
		if i = yy*c.w + xx; background[i] == wantPaper {
			return i, true
		}
	}
	return 0, false
}

func abs(n int) int { return max(n, -n) }
