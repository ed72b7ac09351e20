// SPDX-License-Identifier: Apache-2.0

package session

import "sync"

// below returns the live sessions that a watermark, which is in t.marks already, ends. Those that come while it looks have
// been held against it. Of watermarks that are raised at the same time, one looks for all.
func (t *Table) below(w *Watermark) []ID {
	t.looks.mu.Lock()
	l := t.looks.next
	first := l == nil
	if first {
		l = &look{done: make(chan struct{})}
		t.looks.next = l
	}
	at := len(l.marks)
	l.marks = append(l.marks, w)
	t.looks.mu.Unlock()
	if first {
		t.looks.one.Lock() // meanwhile others join
		t.looks.mu.Lock()
		t.looks.next = nil
		t.looks.mu.Unlock()
		l.look(t)
		t.looks.one.Unlock()
		close(l.done)
	}
	<-l.done
	return l.below[at]
}

// looks takes care that a storm of watermarks is no storm of looks at all sessions.
type looks struct {
	one  sync.Mutex // held by who looks
	mu   sync.Mutex // guards next
	next *look      // that has not begun; nil: none
}

// leavesAtOnce is how many leaves are looked at while deadlines wait.
const leavesAtOnce = 1 << 8

// look is one look at all sessions, for some watermarks.
type look struct {
	marks []*Watermark
	below [][]ID        // by watermark
	done  chan struct{} // closed when below is there
}

func (l *look) look(t *Table) {
	l.below = make([][]ID, len(l.marks))
	about := map[markName][]int{}
	for i, w := range l.marks {
		about[w.name()] = append(about[w.name()], i)
	}
	for i := 0; i < len(t.leaves); i += leavesAtOnce {
		t.mu.Lock()
		for _, e := range t.leaves[i : i+leavesAtOnce] {
			for ; e != nil; e = e.next {
				if e.ended == nil && e.identity != nil {
					l.lookAtLocked(t, e, about)
				}
			}
		}
		t.mu.Unlock()
	}
}

func (l *look) lookAtLocked(t *Table, e *entry, about map[markName][]int) {
	list, n := names(&e.identity.Identity, e.sid)
	for _, name := range list[:n] {
		for _, i := range about[name] {
			// What counts of it; of most sessions there is nobody to whom.
			s := Session{Identity: e.identity.Identity, Method: e.made.Value().method, Origin: e.origin(), Born: e.born}
			if t.endsLocked(l.marks[i], &s) {
				l.below[i] = append(l.below[i], e.id)
			}
		}
	}
}
