// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"log/slog"
	"time"
)

// Config is what New needs.
type Config struct {
	Transmitters []Transmitter

	Sessions Sessions
	Log      *slog.Logger
	Count    func(event string) // may be nil; the events are in outcomes.go
	Now      func() time.Time   // the wall clock; default: time.Now
}
