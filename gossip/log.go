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

type lines struct{ log *slog.Logger }

func (l lines) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b))
	level := slog.LevelInfo
	// Memberlist warns of what is its daily work: a member that does not answer. What comes of it is told by
	// Config.Changed.
	for prefix, is := range map[string]slog.Level{"[ERR]": slog.LevelWarn, "[WARN]": slog.LevelInfo, "[INFO]": slog.LevelDebug, "[DEBUG]": slog.LevelDebug} {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			line, level = strings.TrimSpace(rest), is
			break
		}
	}
	l.log.Log(context.Background(), level, "memberlist", "says", line)
	return len(b), nil
}
