// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Seconds is a duration whose JSON form is a number of seconds, exact to the nanosecond.
type Seconds time.Duration

// Duration returns s as a time.Duration.
func (s Seconds) Duration() time.Duration { return time.Duration(s) }

func (s Seconds) String() string { return time.Duration(s).String() }

// MarshalJSON writes s as a decimal number without an exponent.
func (s Seconds) MarshalJSON() ([]byte, error) {
	sign, n := "", uint64(s)
	if s < 0 {
		sign, n = "-", -n
	}
	whole, frac := n/uint64(time.Second), n%uint64(time.Second)
	text := sign + strconv.FormatUint(whole, 10)
	if frac != 0 {
		text += strings.TrimRight(fmt.Sprintf(".%09d", frac), "0")
	}
	return []byte(text), nil
}

// UnmarshalJSON reads any JSON number that a time.Duration can hold. Digits below a nanosecond
// are rounded.
func (s *Seconds) UnmarshalJSON(b []byte) error {
	text := string(b)
	if text == "null" {
		return nil
	}
	if d, err := time.ParseDuration(text + "s"); err == nil { // exact, but knows no exponents
		*s = Seconds(d)
		return nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.Abs(f) > math.MaxInt64/float64(time.Second) {
		return fmt.Errorf("duration %s: want a number of seconds below 292 years", text)
	}
	*s = Seconds(math.Round(f * float64(time.Second)))
	return nil
}
