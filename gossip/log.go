// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"log"
	"log/slog"
	"strings"
)

// newLog is a logger for memberlist, whose lines begin with a level.
func newLog(to *slog.Logger) *log.Logger { return log.New(lines{to}, "", 0) }

// levels of memberlist's lines, less dramatic than it has them.
var levels = map[string]slog.Level{"[ERR]": slog.LevelWarn, "[WARN]": slog.LevelInfo, "[INFO]": slog.LevelDebug, "[DEBUG]": slog.LevelDebug}

type lines struct{ log *slog.Logger }

func (l lines) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b))
	level := slog.LevelInfo
	// Memberlist warns of what is its daily work: a member that does not answer. What comes of it is told by
	// Config.Changed.
	for prefix, is := range levels {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			line, level = strings.TrimSpace(rest), is
			break
		}
	}
	if strings.Contains(line, "ignoring alive message") { // admission's no, at every start; what matters is counted there
		level = slog.LevelDebug
	}
	l.log.Log(context.Background(), level, "memberlist", "says", line)
	return len(b), nil
}
