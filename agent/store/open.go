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
	"golang.org/x/sys/unix"
)

// openDB opens the file and reads all of it once: bbolt trusts what it maps, and a damaged page
// found later would take the process down in the middle of its work.
func openDB(path string) (db *bbolt.DB, err error) {
	existed := fileExists(path)
	if existed {
		if err := checkAlone(path); err != nil {
			return nil, err
		}
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer faultsAsErrors(path, &err)
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait, FreelistType: bbolt.FreelistMapType})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, inUse(path)
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

// lockWait is how long an agent that ends may still hold the file.
const lockWait = time.Second

func inUse(path string) error {
	return fmt.Errorf("%s: it is in use: another agent runs with this state directory", path)
}

// checkAlone checks the pages while nobody writes them: under the lock that bbolt takes too.
func checkAlone(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // read only; gives the lock back
	for until := time.Now().Add(lockWait); ; time.Sleep(lockWait / 20) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(until) {
			return inUse(path)
		}
	}
	if err := checkPages(f); err != nil {
		return damaged(path, err)
	}
	return nil
}

func fileExists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() > 0
}

// check compares what the pages say: checkPages saw that each can be read.
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
