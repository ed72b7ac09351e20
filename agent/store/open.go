// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// openDB opens the file and reads all of it once: bbolt trusts what it maps, and a damaged page
// found later would take the process down in the middle of its work.
func openDB(path string) (db *bbolt.DB, err error) {
	existed := fileExists(path)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer faultsAsErrors(path, &err)
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("%s: it is in use: another agent runs with this state directory", path)
	case err != nil && existed:
		return nil, damaged(path, err)
	case err != nil:
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	if err := check(db); err != nil {
		_ = db.Close() // the error at hand says more
		return nil, damaged(path, err)
	}
	return db, nil
}

func fileExists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() > 0
}

// check walks every page.
func check(db *bbolt.DB) error {
	return db.View(func(tx *bbolt.Tx) error {
		var errs []error
		for err := range tx.Check() {
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

// faultsAsErrors turns what bbolt does to a damaged file (panics, and faults in the mapping of a
// file that is too short) into an error.
func faultsAsErrors(path string, err *error) {
	if r := recover(); r != nil {
		*err = damaged(path, fmt.Errorf("%v", r))
	}
}
