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

// CheckCurrent checks that the claims have not expired, without any leeway, and are good already. It returns
// when they expire.
func (c Claims) CheckCurrent(now time.Time) (expires time.Time, err error) {
	exp, err1 := c.Instant("exp")
	nbf, err2 := c.Instant("nbf")
	switch err := errors.Join(err1, err2); {
	case err != nil:
		return time.Time{}, err
	case exp.IsZero():
		return time.Time{}, errors.New("claim exp is missing")
	case !now.Before(exp):
		return time.Time{}, fmt.Errorf("has expired %s ago", now.Sub(exp).Round(time.Second))
	case nbf.After(now.Add(Leeway)):
		return time.Time{}, fmt.Errorf("is not good before %s from now: are the clocks right?", nbf.Sub(now).Round(time.Second))
	}
	return exp, nil
}
