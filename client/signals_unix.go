// SPDX-License-Identifier: Apache-2.0

//go:build unix

package client

import (
	"os"
	"syscall"
)

const terminate = syscall.SIGTERM

var passedOn = []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}

// exitCode returns the status that a shell would give: 128 and the signal's number for a command
// that was killed.
func exitCode(s *os.ProcessState) int {
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return s.ExitCode()
}
