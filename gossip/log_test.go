// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"log/slog"
	"strings"
	"testing"
)

func TestLogLevels(t *testing.T) {
	var out strings.Builder
	log := newLog(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	for line, want := range map[string]string{
		"[ERR] memberlist: x":                                "level=WARN",
		"[WARN] memberlist: x":                               "level=INFO",
		"[INFO] memberlist: x":                               "level=DEBUG",
		"[DEBUG] memberlist: x":                              "level=DEBUG",
		"[WARN] memberlist: ignoring alive message for 'x':": "level=DEBUG",
		"x": "level=INFO",
	} {
		out.Reset()
		log.Print(line)
		if got := out.String(); !strings.Contains(got, want) || strings.Contains(got, "[") || strings.Count(got, "\n") != 1 {
			t.Errorf("%q became %q", line, got)
		}
	}
}
