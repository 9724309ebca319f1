package main

import (
	"io"
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
	if c.LogFormat == "console" {
		to = zerolog.ConsoleWriter{Out: to, TimeFormat: time.TimeOnly}
	}
	log := zerolog.New(to).Level(level).With().Timestamp().Logger()
	meter.LogRedis(log)
	return log, nil
}
