// SPDX-License-Identifier: Apache-2.0

package client

import (
	"os"
	"syscall"
)

const terminate = syscall.SIGTERM

var passedOn = []os.Signal{os.Interrupt}

func exitCode(s *os.ProcessState) int { return s.ExitCode() }
