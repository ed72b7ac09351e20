// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"

	"github.com/goccy/go-yaml/ast"
)

// maxFile bounds a configuration file, in bytes.
const maxFile = 1 << 20

// Hooks is what the check of a configuration asks of others.
type Hooks struct {
	// Compile checks a policy. Errors in its result, or wrapped within, that are Positioned are
	// reported at their place in the file. It must be set.
	Compile func(expr string) error
	// CompileClaims does the same for an expression over the claims of a token. It must be set.
	CompileClaims func(expr string) error
	// CheckKeys says what is wrong with the keys in a JWK Set. It must be set unless SkipFiles is.
	CheckKeys func(jwks []byte) error
	// SkipFiles leaves out the files that the configuration names: certificates, keys, secrets. It
	// is for checking a configuration on another host than it is for.
	SkipFiles bool
}

// Positioned is an error that knows its place within the expression, from 1.
type Positioned interface {
	error
	Position() (line, column int)
	Description() string // the message without the position
}

// Load reads and checks the configuration in the file at path. Its error is Problems, with
// everything that is wrong. Relative names of files in it count from its directory and are made
// absolute.
func Load(path string, hooks Hooks) (*Config, error) {
	text, err := readConfig(path)
	if err != nil {
		return nil, Problems{{File: path, Message: err.Error()}}
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, Problems{{File: path, Message: err.Error()}}
	}
	return parse(path, dir, text, hooks)
}

func readConfig(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, reason(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	switch {
	case err != nil:
		return nil, reason(err)
	case !fi.Mode().IsRegular():
		return nil, errors.New("is not a regular file")
	case hasModes && fi.Mode().Perm()&0o002 != 0:
		return nil, fmt.Errorf("everybody may write to it (mode %04o), and so decide who may pass; run chmod o-w %s", fi.Mode().Perm(), path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("is larger than %d bytes", maxFile)
	}
	return text, reason(err)
}

// reason strips the operation and the name off err: they are in the message already.
func reason(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// parse is Load without the file system, but for the files that the configuration names.
func parse(path, dir string, text []byte, hooks Hooks) (*Config, error) {
	d := newDocument(path, string(text))
	c := Default()
	top := d.parse()
	if top == nil {
		return nil, d.problems.sorted()
	}
	d.decode("", top, reflect.ValueOf(c).Elem())
	if _, ok := top.(ast.MapNode); !ok {
		return nil, d.problems.sorted()
	}
	c.complete()
	c.resolve(dir)
	d.validate(c, hooks)
	if err := d.problems.sorted(); err != nil {
		return nil, err
	}
	return c, nil
}

// Validate checks a configuration that was made by a program; what is not set and depends on
// other keys is filled in first. Its error is Problems.
func (c *Config) Validate(hooks Hooks) error {
	c.complete()
	d := newDocument("", "")
	d.validate(c, hooks)
	return d.problems.sorted()
}
