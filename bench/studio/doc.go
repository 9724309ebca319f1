// Package studio is the backend that stands in for a real image service in the demo, in tests and in benchmarks. It
// does honest image work on real bytes, so that the gateway in front of it meets real sizes and real times, and it
// misbehaves on request, so that the gateway can be seen to give credits back.
//
// It knows nothing about credits. It refuses to keep anything: no photo, no job, no account; two equal requests get
// equal answers. It refuses photos that would not fit into memory once decoded.
//
//	studio.go      Options, New, Serve, Shutdown, routes, call counts
//	steering.go    the X-Studio-* headers
//	delivery.go    how an answer reaches the client: whole, late, never, or half and reset
//	answer.go      JSON bodies and errors
//	decode.go      bytes to pictures, within limits
//	apply.go       POST /studio/apply, revert, report
//	parse.go       the two forms of an apply request
//	cutout.go      finding the plain background of a photo
//	matte.go       soft edges and shadows of the cut-out
//	compose.go     the new background and the logo
//	generate.go    POST /v1/images/generations, in OpenAI's shape
//	picture.go     drawing a picture from a prompt
//	palette.go     colours that go together
//	scene3d.go     POST /3d/...: a mesh, a background removed, a style
//	sample.go      photos and a logo for the demo
//
// Routes:
//
//	POST /studio/apply           a background, and a logo, on each photo
//	POST /studio/revert          back to the originals (the caller has them)
//	POST /studio/report          report a faulty image
//	POST /v1/images/generations  pictures from a prompt
//	POST /3d/trial               a coarse mesh from a prompt, for nothing
//	POST /3d/generations         a mesh from a prompt
//	POST /3d/background-removal  a photo with a transparent background
//	POST /3d/style-transfer      a photo in the colours of a style
//	GET  /studio/stats           calls per route since the start
//
// Steering, by request header; a value that cannot be read is a 400:
//
//	X-Studio-Latency     wait before the work: 250ms, 2s, or a number of milliseconds
//	X-Studio-Fail-Rate   0 to 1: with this probability the whole request fails with 500
//	X-Studio-Fail-Items  2: the first two items fail; 0,2 or a,b: those indices or ids; "2," for one index alone
//	X-Studio-Hang        true: no answer, until the client goes away; body: half of one, then nothing more
//	X-Studio-Reset       true or body: half an answer, then a TCP reset; before: a reset without a byte
package studio
