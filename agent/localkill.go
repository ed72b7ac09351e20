// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
)

// localKillsFile is where "kill --local" leaves word for the proxy process, in the state directory: the
// kernel forgets whom it ended, and knows nobody who has no connection here.
const localKillsFile = "killed-local.jsonl"

// localKill is one line of the file. It ends every matching session that is known when it is read,
// whatever the clocks say.
type localKill struct {
	At      time.Time `json:"at"` // for people
	All     bool      `json:"all,omitempty"`
	Session string    `json:"session,omitempty"` // an ID, or the beginning of one
	Subject string    `json:"subject,omitempty"`
	Reason  string    `json:"reason,omitempty"`
}

func (k localKill) selector() session.Selector {
	return session.Selector{All: k.All, ID: k.Session, Subject: k.Subject}
}

// leaveWord appends a line, durably.
func (k localKill) leaveWord(state string) error {
	line, err := json.Marshal(k)
	if err != nil {
		return err
	}
	// Readable by the proxy's user, who owns the directory and removes the file; links are not followed.
	f, err := os.OpenFile(filepath.Join(state, localKillsFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return fmt.Errorf("leave word for the agent: %w", err)
	}
	_, err = f.Write(append(line, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("leave word for the agent: %w", err)
	}
	return nil
}

// localKills reads the file as it grows. Safe for concurrent use.
type localKills struct {
	path string

	mu   sync.Mutex
	read int64 // bytes read so far
}

// fresh returns the lines that have come since the last call; it costs one stat if there are none.
func (l *localKills) fresh() ([]localKill, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	info, err := os.Stat(l.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err == nil && info.Size() <= l.read {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(l.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var kills []localKill
	r := bufio.NewReader(io.NewSectionReader(f, l.read, info.Size()-l.read))
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return kills, nil // half a line: its writer has not been told yet that it is durable
		}
		var k localKill
		if err := json.Unmarshal(bytes.TrimSpace(line), &k); err != nil {
			k = localKill{All: true, Reason: "a line of " + localKillsFile + " cannot be read"} // doubt
		}
		kills = append(kills, k)
		l.read += int64(len(line))
	}
}

// applied removes the file: what it said is in the store now. Only at the start, when nobody has
// been told that the agent serves, and so nobody has reason to write.
func (l *localKills) applied() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.read = 0
	err := os.Remove(l.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// heedEarlierKills ends what kill --local ended while no proxy process was there to be told.
func (p *proxyProcess) heedEarlierKills() error {
	if err := p.heedLocalKills(); err != nil {
		return err
	}
	return p.localKills.applied()
}

// heedLocalKills ends what kill --local has ended.
func (p *proxyProcess) heedLocalKills() error {
	kills, err := p.localKills.fresh()
	if err != nil {
		return fmt.Errorf("read %s: %w", localKillsFile, err)
	}
	for _, k := range kills {
		var ids []session.ID
		for _, e := range p.table.Select(k.selector(), false) {
			ids = append(ids, e.Session.ID)
		}
		if _, err := p.table.EndAll(ids, session.End{Reason: session.ReasonKilled, By: "kill --local", Message: k.Reason}); err != nil {
			return err
		}
	}
	return nil
}
