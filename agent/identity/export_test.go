// SPDX-License-Identifier: Apache-2.0

package identity

import "time"

// SetNow replaces the clock of l. It must be called before l is used.
func (l *Logins) SetNow(now func() time.Time) { l.now = now }

// Limits, for tests.
const (
	LoginLifetime = loginLifetime
	CodeLifetime  = codeLifetime
)
