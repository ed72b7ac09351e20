// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"errors"
	"fmt"
	"time"
)

// Leeway is how far the clock of who issues tokens may be ahead of ours.
const Leeway = time.Minute

// CheckIssued checks that the claims say when they were issued, not in the future, and that they say when
// they expire; whether they have is the verifier's business. It returns the time of issue.
func (c Claims) CheckIssued(now time.Time) (time.Time, error) {
	if exp, err := c.Instant("exp"); err != nil || exp.IsZero() {
		return time.Time{}, errors.New("claim exp is missing or not a date")
	}
	iat, err := c.Instant("iat")
	switch {
	case err != nil:
		return time.Time{}, err
	case iat.IsZero():
		return time.Time{}, errors.New("claim iat is missing")
	case iat.After(now.Add(Leeway)):
		return time.Time{}, fmt.Errorf("claim iat is %s in the future: are the clocks right?", iat.Sub(now).Round(time.Second))
	}
	return iat, nil
}
