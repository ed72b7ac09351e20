// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"math"
	"strconv"
	"testing"
	"time"
)

func TestSecondsJSON(t *testing.T) {
	for _, tc := range []struct {
		d    time.Duration
		want string
	}{
		{0, "0"},
		{time.Hour, "3600"},
		{1500 * time.Millisecond, "1.5"},
		{time.Nanosecond, "0.000000001"},
		{-90 * time.Second, "-90"},
		{-time.Nanosecond, "-0.000000001"},
		{math.MaxInt64, "9223372036.854775807"},
		{math.MinInt64, "-9223372036.854775808"},
	} {
		b, err := json.Marshal(Seconds(tc.d))
		if err != nil || string(b) != tc.want {
			t.Errorf("Marshal(%v) = %s, %v; want %s", tc.d, b, err, tc.want)
		}
		var back Seconds
		if err := json.Unmarshal(b, &back); err != nil || back.Duration() != tc.d {
			t.Errorf("Unmarshal(%s) = %v, %v; want %v", b, back, err, tc.d)
		}
	}
}

func TestSecondsRefusesWhatIsNoDuration(t *testing.T) {
	for _, in := range []string{`"1s"`, `1e300`, `-1e300`, `{}`, `true`, `[1]`} {
		var s Seconds
		if err := json.Unmarshal([]byte(in), &s); err == nil {
			t.Errorf("Unmarshal(%s) = %v, want an error", in, s)
		}
	}
}

func FuzzSeconds(f *testing.F) {
	for _, seed := range []string{"0", "1.5", "1e3", "-0.25", "9223372037", "1e-12", `"1"`, "null", "1h2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		var s Seconds
		if err := json.Unmarshal([]byte(in), &s); err != nil {
			return
		}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatalf("Marshal(%d): %v", s, err)
		}
		var back Seconds
		if err := json.Unmarshal(b, &back); err != nil || back != s {
			t.Fatalf("%q became %d, then %s, then %d (%v)", in, s, b, back, err)
		}
		if f, err := strconv.ParseFloat(in, 64); err == nil && math.Abs(f-float64(s)/1e9) > 1e-9*math.Max(1, math.Abs(f)) {
			t.Fatalf("%q became %v", in, s)
		}
	})
}
