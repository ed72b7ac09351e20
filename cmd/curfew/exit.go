// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/curfew-proxy/curfew/agent/api"
)

// Exit codes. Scripts rely on them: they are part of the interface.
const (
	exitOK      = 0
	exitError   = 1
	exitUsage   = 2 // the command line makes no sense
	exitLeft    = 3 // not everything could be killed, or it could not be verified
	exitSession = 4 // the session has ended
)

// hinted is an error that says what to do about it, and how the program ends.
type hinted struct {
	err  error
	hint string // may be empty
	code int    // 0 means exitError
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// hint wraps err with what to do about it.
func hint(err error, format string, args ...any) error {
	return &hinted{err: err, hint: fmt.Sprintf(format, args...)}
}

// usage is an error of the command line.
func usage(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	advice := "see --help"
	if h, ok := errors.AsType[*hinted](err); ok {
		advice = h.hint
	}
	return &hinted{err: err, hint: advice, code: exitUsage}
}

// report prints err with its hint and returns the exit code.
func (a *app) report(err error) int {
	if err == nil {
		return exitOK
	}
	code, advice := exitError, ""
	var h *hinted
	var e *api.Error
	if errors.As(err, &e) {
		advice = e.Hint
	}
	if errors.As(err, &h) {
		code = cmp.Or(h.code, exitError)
		advice = cmp.Or(h.hint, advice)
	}
	fmt.Fprintf(a.err, "error: %s\n", cleanLines(err.Error()))
	if advice != "" {
		fmt.Fprintf(a.err, "hint: %s\n", cleanLines(advice))
	}
	return code
}
