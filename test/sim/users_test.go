// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// move takes the user of a session to another node.
func (w *world) move(rng *rand.Rand) {
	n, l := w.anyNode(rng)
	if l == nil || len(w.book.list) == 0 {
		return
	}
	f := w.book.list[max(len(w.book.list)-1-rng.IntN(100), 0)]
	w.note("%s: used from now on by %s", n.name, f.id.Short())
	w.connect(f, n, l)
}

// connect is what the agent does with a client: who is not known is asked for, who has ended is refused.
func (w *world) connect(f *fact, n *node, l *life) {
	if _, err := l.table.ByKey(f.key); errors.Is(err, session.ErrUnknownKey) {
		w.wait.Go(func() { l.engine.Find(context.Background(), f.key) }) // it will be there the next time, if at all
		return
	}
	c := session.NewConnection(f.id)
	n.mu.Lock()
	if n.life != l {
		n.mu.Unlock()
		return
	}
	n.conns[c] = true // before: it may end at once
	n.mu.Unlock()
	if _, _, err := l.table.Attach(c); err != nil {
		n.mu.Lock()
		delete(n.conns, c)
		n.mu.Unlock()
		return
	}
	w.conns[f], f.goes = c, n
	w.book.use(f, n)
}

// use lets everybody who has something to do send a request, and get an answer.
func (w *world) use() {
	now := time.Now()
	for _, f := range w.book.list {
		pause := f.idle / 6
		if f.idle == 0 {
			pause = 10 * time.Second
		}
		if now.After(f.useUntil) || now.After(f.deadline) || now.Sub(f.used) < pause {
			continue
		}
		n := f.goes
		l := n.running()
		if l == nil || !l.engine.Ready() { // it is sent to another
			n = w.nodes[(n.index+1)%len(w.nodes)]
			f.goes = n
			if l = n.running(); l == nil || !l.engine.Ready() {
				continue
			}
		}
		c := w.conns[f]
		n.mu.Lock()
		live := c != nil && n.conns[c] && c.Session() == f.id
		n.mu.Unlock()
		if !live {
			w.connect(f, n, l)
			continue
		}
		w.book.use(f, n)
		c.Activity.NoteClient(100)
		c.Activity.NoteUpstream(100)
	}
}
