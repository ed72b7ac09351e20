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

// leaveWord appends a line, durably. An agent that starts meanwhile takes the file away: then the line may
// be one that nobody reads any more, and is written again.
func (k localKill) leaveWord(state string) error {
	line, err := json.Marshal(k)
	if err != nil {
		return err
	}
	const attempts = 5 // the file is taken away once a start
	for range attempts {
		var there bool
		if there, err = appendLine(filepath.Join(state, localKillsFile), append(line, '\n')); err != nil || there {
			break
		}
		err = errors.New("the file is taken away again and again")
	}
	if err != nil {
		return fmt.Errorf("leave word for the agent: %w", err)
	}
	return nil
}

// appendLine reports whether the file that it wrote to was still in its place afterwards.
func appendLine(path string, line []byte) (there bool, err error) {
	// Readable by the proxy's user, who owns the directory and removes the file; links are not followed.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return false, err
	}
	_, err = f.Write(line)
	err = errors.Join(err, f.Sync())
	wrote, statErr := f.Stat()
	if err := errors.Join(err, statErr, f.Close()); err != nil {
		return false, err
	}
	now, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(wrote, now), err
}

// localKills reads the file as it grows. Safe for concurrent use.
type localKills struct {
	path string

	mu   sync.Mutex
	read int64 // bytes read so far
}

// heed applies the lines that have come since the last call; it costs one stat if there are none. It
// returns when they are applied, also where another call is at it: nobody is let in past a kill that is
// being carried out.
func (l *localKills) heed(apply func(localKill) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := applyLines(l.path, l.read, apply)
	l.read += n
	return err
}

// settle is heed for the start: afterwards the file is gone, for what it said is in the store. The file is
// moved out of the way before it is read, so that no line is lost: see leaveWord.
func (l *localKills) settle(apply func(localKill) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.path + ".old"
	for range 2 { // the first time for what an agent left that was killed here
		if _, err := applyLines(old, 0, apply); err != nil {
			return err
		}
		if err := os.Remove(old); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.Rename(l.path, old); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	l.read = 0
	return nil
}

// applyLines applies the lines of a file from an offset on, all of them even if one goes wrong. It returns how many
// bytes they have. No file: no lines.
func applyLines(path string, from int64, apply func(localKill) error) (n int64, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Size() <= from {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close() // read only
	var errs []error
	r := bufio.NewReader(io.NewSectionReader(f, from, info.Size()-from))
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return n, errors.Join(errs...) // half a line: its writer has not been told yet that it is durable
		}
		var k localKill
		if err := json.Unmarshal(bytes.TrimSpace(line), &k); err != nil {
			k = localKill{All: true, Reason: "a line of " + localKillsFile + " cannot be read"} // doubt
		}
		errs = append(errs, apply(k))
		n += int64(len(line))
	}
}

// heedEarlierKills ends what kill --local ended while no proxy process was there to be told.
func (p *proxyProcess) heedEarlierKills() error {
	if err := p.localKills.settle(p.endLocally); err != nil {
		return fmt.Errorf("heed %s: %w", localKillsFile, err)
	}
	return nil
}

// heedLocalKills ends what kill --local has ended.
func (p *proxyProcess) heedLocalKills() error {
	if err := p.localKills.heed(p.endLocally); err != nil {
		return fmt.Errorf("heed %s: %w", localKillsFile, err)
	}
	return nil
}

func (p *proxyProcess) endLocally(k localKill) error {
	var ids []session.ID
	for _, e := range p.table.Select(k.selector(), false) {
		ids = append(ids, e.Session.ID)
	}
	_, err := p.table.EndAll(ids, session.End{Reason: session.ReasonKilled, By: "kill --local", Message: k.Reason})
	return err
}
