package main

import (
	"context"
	"os"
)

func main() {
	a := &app{environ: os.Environ(), out: os.Stdout, err: os.Stderr}
	os.Exit(a.run(context.Background(), os.Args[1:]))
}
