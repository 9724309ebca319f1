package journal

import (
	"io"
	"os"
)

// disk is what the journal asks of the file system. Tests put faults, kills and power cuts between it and the
// real one.
type disk interface {
	// create makes a file that must not exist.
	create(path string) (file, error)
	// open opens an existing file for writing.
	open(path string) (file, error)
	remove(path string) error
	// syncDir makes created names of a directory durable.
	syncDir(path string) error
}

// file is an open segment. Writes go to explicit offsets, so that a write that failed half-way is overwritten.
type file interface {
	io.WriterAt
	io.Closer
	Sync() error
	Truncate(size int64) error
}

type osDisk struct{}

func (osDisk) create(path string) (file, error) {
	return osFile(os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600))
}

func (osDisk) open(path string) (file, error) {
	return osFile(os.OpenFile(path, os.O_WRONLY, 0))
}

// osFile keeps a nil *os.File from becoming a non-nil interface.
func osFile(f *os.File, err error) (file, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (osDisk) remove(path string) error { return os.Remove(path) }

func (osDisk) syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		_ = d.Close()
		return err
	}
	return d.Close()
}
