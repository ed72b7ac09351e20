// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"testing"
)

func TestAsk(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 3, func(c *Config) {
			c.Answer = func(_ context.Context, from string, request []byte) ([]byte, error) {
				switch string(request) {
				case "no":
					return nil, errors.New("no")
				case "long":
					return make([]byte, maxOpaque+1), nil
				}
				return append([]byte(from+" asked "), request...), nil
			}
		})
		s.ready(t)
		e := s.nodes["n0"].engine
		if got, err := e.Ask(t.Context(), "n2", []byte("this")); err != nil || string(got) != "n0 asked this" {
			t.Errorf("%q, %v", got, err)
		}
		for _, bad := range []string{"no", "long", string(bytes.Repeat([]byte("x"), maxOpaque+1))} {
			if got, err := e.Ask(t.Context(), "n2", []byte(bad)); err == nil {
				t.Errorf("%.10s: %d bytes", bad, len(got))
			}
		}
		for _, nobody := range []string{"n0", "", "n9"} {
			if _, err := e.Ask(t.Context(), nobody, []byte("this")); err == nil {
				t.Errorf("%q answers", nobody)
			}
		}
	})
}
