// SPDX-License-Identifier: Apache-2.0

package bpf

import "fmt"

// Outcome is what became of a socket that was to be destroyed.
type Outcome uint8

// The outcomes. Destroyed and Gone are good ends.
const (
	Untouched Outcome = iota // nothing was tried
	Destroyed                // both ends see a reset
	Gone                     // there was no such socket any more
	Refused                  // it is not ours to destroy
	Survived                 // it was destroyed and is still there
	Failed                   // the kernel answered with an error
)

func (o Outcome) String() string {
	switch o {
	case Untouched:
		return "untouched"
	case Destroyed:
		return "destroyed"
	case Gone:
		return "gone"
	case Refused:
		return "refused"
	case Survived:
		return "survived"
	case Failed:
		return "failed"
	}
	return fmt.Sprintf("outcome %d", uint8(o))
}
