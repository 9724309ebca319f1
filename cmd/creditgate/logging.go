package main

import (
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"

	"creditgate/meter"
)

// logger writes one line an event: JSON, or coloured for people.
func (c *config) logger(to io.Writer) (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(c.LogLevel)
	if err != nil {
		return zerolog.Nop(), err
	}
	log := zerolog.New(to).With().Timestamp().Logger()
	if c.LogFormat == "console" {
		log = consoleLog(to)
	}
	log = log.Level(level)
	meter.LogRedis(log)
	return log, nil
}

// consoleLog writes for people, in colour only where somebody sees it.
func consoleLog(to io.Writer) zerolog.Logger {
	out := zerolog.ConsoleWriter{Out: to, TimeFormat: time.TimeOnly, NoColor: true}
	if f, ok := to.(*os.File); ok && os.Getenv("NO_COLOR") == "" {
		info, err := f.Stat()
		out.NoColor = err != nil || info.Mode()&os.ModeCharDevice == 0
	}
	return zerolog.New(out).With().Timestamp().Logger()
}
