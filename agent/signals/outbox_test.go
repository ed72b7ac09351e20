// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// outbox is the side of a transmitter that is polled: RFC 8936.
type outbox struct {
	hold time.Duration // how long an answer is held back where there is nothing
	// fault answers in its place if it returns true; n counts requests from 1.
	fault func(n int, w http.ResponseWriter, r *http.Request) bool

	mu       sync.Mutex // guards the fields below
	order    []string
	sets     map[string]string
	deaf     bool // acknowledgements are not heeded
	acked    []string
	errs     map[string]refusalJSON
	requests []pollRequest
	headers  []http.Header
}

// outbox adds one to the rig, at /poll.
func (g *rig) outbox() *outbox {
	o := &outbox{hold: 20 * time.Second, sets: map[string]string{}, errs: map[string]refusalJSON{}}
	g.mux.Handle("POST /poll", o)
	g.cfg.PollURL, g.cfg.Access = g.server.URL+"/poll", Access{Token: pollToken}
	return o
}

// put adds an event.
func (o *outbox) put(jti, token string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, has := o.sets[jti]; !has {
		o.order = append(o.order, jti)
	}
	o.sets[jti] = token
}

func (o *outbox) left() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.sets)
}

func (o *outbox) told() (acked []string, errs map[string]refusalJSON) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.acked), maps.Clone(o.errs)
}

func (o *outbox) asked() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.requests)
}

func (o *outbox) request(i int) (pollRequest, http.Header) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.requests[i], o.headers[i]
}

// note takes in what a request says, and returns how many there were.
func (o *outbox) note(q pollRequest, h http.Header) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.requests, o.headers = append(o.requests, q), append(o.headers, h)
	return len(o.requests)
}

func (o *outbox) heed(q pollRequest) {
	o.mu.Lock()
	defer o.mu.Unlock()
	gone := slices.Concat(q.Ack, slices.Collect(maps.Keys(q.SetErrs)))
	o.acked = append(o.acked, q.Ack...)
	maps.Copy(o.errs, q.SetErrs)
	if o.deaf {
		return
	}
	for _, jti := range gone {
		delete(o.sets, jti)
	}
	o.order = slices.DeleteFunc(o.order, func(jti string) bool { return slices.Contains(gone, jti) })
}

func (o *outbox) take(most int) (sets map[string]string, more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	sets = map[string]string{}
	for _, jti := range o.order {
		if len(sets) == most {
			return sets, true
		}
		sets[jti] = o.sets[jti]
	}
	return sets, false
}

func (o *outbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var q pollRequest
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	n := o.note(q, r.Header)
	if o.fault != nil && o.fault(n, w, r) {
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+pollToken {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	o.heed(q)
	most := 1000
	if q.MaxEvents != nil {
		most = *q.MaxEvents
	}
	for deadline := time.Now().Add(o.hold); most > 0 && !q.ReturnImmediately && o.left() == 0 && time.Now().Before(deadline) && r.Context().Err() == nil; {
		time.Sleep(time.Millisecond)
	}
	sets, more := o.take(most)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(object{"sets": sets, "moreAvailable": more})
}

// polling runs a poller of the rig until the test ends, or stop is called.
func (g *rig) polling(change ...func(*poller)) (stop func()) {
	g.t.Helper()
	p := newPoller(g.receiver())
	p.quiet, p.first = 20*time.Millisecond, 10*time.Millisecond
	for _, f := range change {
		f(p)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { p.run(ctx) })
	stop = func() { cancel(); group.Wait() }
	g.t.Cleanup(stop)
	return stop
}

// event makes an event about a user and puts it into the outbox. It returns its jti.
func (g *rig) event(t testing.TB, o *outbox, subject object, change ...func(object)) string {
	t.Helper()
	c := g.claims(revoked, subject, nil)
	for _, f := range change {
		f(c)
	}
	name := "jti-" + strconv.Itoa(g.n)
	o.put(name, g.sign(c))
	return name
}
