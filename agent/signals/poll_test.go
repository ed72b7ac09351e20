// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestPoll(t *testing.T) {
	g := newRig(t)
	o := g.outbox()
	o.hold = 50 * time.Millisecond
	first := g.event(t, o, alice())
	g.polling()
	eventually(t, "the first event is acknowledged", func() bool { return o.left() == 0 })
	if did := g.sessions.taken(); !slices.Equal(did, []string{endAlice}) {
		t.Errorf("did %q", did)
	}
	asked := o.asked()
	eventually(t, "it asks for more, patiently", func() bool { return o.asked() > asked+1 })
	second := g.event(t, o, issSub(provider, "bob"))
	eventually(t, "the second event is acknowledged", func() bool { return o.left() == 0 })
	if acked, errs := o.told(); !slices.Equal(acked, []string{first, second}) || len(errs) > 0 {
		t.Errorf("acknowledged %q, refused %v", acked, errs)
	}
	q, header := o.request(0)
	if q.ReturnImmediately || q.MaxEvents == nil || *q.MaxEvents != pollEvents || header.Get("Authorization") != "Bearer "+pollToken ||
		header.Get("Content-Type") != "application/json" || header.Get("Accept") != "application/json" {
		t.Errorf("asked %+v with %v", q, header)
	}
	if strings.Contains(g.logs.String(), "poll-token") || g.counts.of(PollFailed) > 0 {
		t.Errorf("%s", g.logs)
	}
}

// What is good is acknowledged, what is bad is refused with the reason, and nothing holds up anything else.
func TestPollRefusals(t *testing.T) {
	g := newRig(t)
	o := g.outbox()
	good := g.event(t, o, alice())
	want := map[string]string{
		g.event(t, o, alice(), func(c object) { c["iss"] = provider }):                                      codeIssuer,
		g.event(t, o, alice(), func(c object) { c["aud"] = "them" }):                                        codeAudience,
		g.event(t, o, object{"format": "email"}):                                                            codeRequest,
		g.event(t, o, alice(), func(c object) { c["jti"] = "of another" }):                                  codeRequest,
		g.event(t, o, nil, func(c object) { c["events"] = object{typeVerification: object{"state": "x"}} }): codeState,
	}
	o.put("not a token", "x")
	want["not a token"] = codeRequest
	forged := g.event(t, o, alice())
	o.put(forged, o.sets[forged][:len(o.sets[forged])-4]+"AAAA")
	want[forged] = codeKey
	g.polling()
	eventually(t, "all are answered", func() bool { return o.left() == 0 })
	acked, errs := o.told()
	if !slices.Equal(acked, []string{good}) || len(errs) != len(want) {
		t.Errorf("acknowledged %q, refused %v", acked, errs)
	}
	for jti, code := range want {
		if errs[jti].Err != code || errs[jti].Description == "" {
			t.Errorf("%s: %+v, want %s", jti, errs[jti], code)
		}
	}
	if did := g.sessions.taken(); !slices.Equal(did, []string{endAlice}) {
		t.Errorf("did %q", did)
	}
	if _, h := o.request(o.asked() - 1); h.Get("Content-Language") == "" {
		if _, h := o.request(1); h.Get("Content-Language") == "" {
			t.Error("the descriptions are in no language")
		}
	}
}

// An event is acknowledged when sessions have ended, and not before; if they cannot be ended it comes again.
func TestPollAcknowledgesAfterTheEnd(t *testing.T) {
	g := newRig(t)
	o := g.outbox()
	g.sessions.set(errors.New("disk full"))
	jti := g.event(t, o, alice())
	g.polling()
	eventually(t, "it was tried twice", func() bool { return g.counts.of(EventFailed) >= 2 })
	if acked, errs := o.told(); len(acked)+len(errs) > 0 {
		t.Fatalf("told %q, %v", acked, errs)
	}
	g.sessions.set(nil)
	eventually(t, "it is acknowledged", func() bool { return o.left() == 0 })
	if acked, _ := o.told(); !slices.Equal(acked, []string{jti}) {
		t.Errorf("acknowledged %q", acked)
	}
}

// A backlog is worked off without waiting, in parts.
func TestPollBacklog(t *testing.T) {
	g := newRig(t)
	o := g.outbox()
	const many = 200
	for i := range many {
		g.event(t, o, issSub(provider, fmt.Sprint("user", i)))
	}
	g.polling(func(p *poller) { p.quiet = time.Hour })
	eventually(t, "all are acknowledged", func() bool { acked, _ := o.told(); return len(acked) == many })
	did := g.sessions.taken()
	slices.Sort(did)
	if len(slices.Compact(did)) != many {
		t.Errorf("did %d", len(did))
	}
	for i := range o.asked() {
		if q, _ := o.request(i); len(q.Ack) > pollEvents {
			t.Errorf("request %d acknowledges %d", i, len(q.Ack))
		}
	}
}

// Delivered twice, in another order, and by a transmitter that does not listen: done once, and not asked in a loop.
func TestPollRepetitions(t *testing.T) {
	g := newRig(t)
	o := g.outbox()
	o.deaf = true
	for _, name := range []string{"c", "a", "b"} {
		o.put(name, g.sign(func() object { c := g.claims(revoked, issSub(provider, name), nil); c["jti"] = name; return c }()))
	}
	g.polling(func(p *poller) { p.quiet = 50 * time.Millisecond })
	began := time.Now()
	eventually(t, "all are acknowledged twice", func() bool { acked, _ := o.told(); return len(acked) >= 6 })
	if n, most := o.asked(), int(time.Since(began)/(30*time.Millisecond))+3; n > most {
		t.Errorf("asked %d times, in a loop", n)
	}
	did := g.sessions.taken()
	slices.Sort(did)
	if want := []string{"end sub a at " + provider, "end sub b at " + provider, "end sub c at " + provider}; !slices.Equal(did, want) {
		t.Errorf("did %q", did)
	}
	if _, errs := o.told(); len(errs) > 0 {
		t.Errorf("refused %v: repetitions are to be acknowledged", errs)
	}
}

// Whatever goes wrong at the transmitter, events come through afterwards.
func TestPollFaults(t *testing.T) {
	huge := bytes.Repeat([]byte("a"), 2<<20)
	body := func(s string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(s)) }
	}
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request){
		"500": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"429": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Retry-After", "0"); w.WriteHeader(429) },
		"401": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) },
		"202": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(202)
			_, _ = w.Write([]byte(`{"sets":{}}`))
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/keys", http.StatusTemporaryRedirect)
		},
		"cut off": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"huge":    func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(huge) },
		"huge and said so": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "2097152")
			_, _ = w.Write(huge)
		},
		"slow":           func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"empty":          body(""),
		"no JSON":        body("<html>"),
		"no sets":        body(`{}`),
		"sets is null":   body(`{"sets":null}`),
		"sets is a list": body(`{"sets":["x"]}`),
		"a set is null":  body(`{"sets":{"a":null}}`),
		"a set is JSON":  body(`{"sets":{"a":{}}}`),
		"twice sets":     body(`{"sets":{},"SETS":{}}`),
		"more is text":   body(`{"sets":{},"moreAvailable":"yes"}`),
		"more behind":    body(`{"sets":{}}{}`),
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t)
			o := g.outbox()
			o.fault = func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n > 2 {
					return false
				}
				fault(w, r)
				return true
			}
			jti := g.event(t, o, alice())
			g.polling(func(p *poller) { p.client.Timeout = 300 * time.Millisecond })
			eventually(t, "the event is acknowledged", func() bool { return o.left() == 0 })
			if acked, _ := o.told(); !slices.Contains(acked, jti) || g.counts.of(PollFailed) != 2 || len(g.sessions.taken()) != 1 {
				t.Errorf("acknowledged %q, %d failures", acked, g.counts.of(PollFailed))
			}
		})
	}
}

// An answer that is too big is asked for in smaller parts.
func TestPollTooMuchAtOnce(t *testing.T) {
	g := newRig(t)
	o := g.outbox()
	for i := range 40 {
		g.event(t, o, issSub(provider, fmt.Sprint("user", i)), func(c object) { c["more"] = strings.Repeat("x", 40<<10) })
	}
	g.polling()
	eventually(t, "all are acknowledged", func() bool { acked, _ := o.told(); return len(acked) == 40 })
}

// Whoever wants to be left alone is, but not for ever.
func TestPollRetryAfter(t *testing.T) {
	p := newPoller(newRig(t).receiver())
	for after, want := range map[time.Duration]time.Duration{0: 0, time.Minute: time.Minute, 24 * time.Hour: pollRespect} {
		if wait := p.obstacle(&statusError{status: 429, after: after}); wait != want {
			t.Errorf("Retry-After %s: %s, want %s", after, wait, want)
		}
	}
}

// What was acknowledged in a request that failed is acknowledged again.
func TestPollKeepsAcknowledgements(t *testing.T) {
	g := newRig(t)
	o := g.outbox()
	var broken atomic.Bool
	o.fault = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		if broken.Load() {
			w.WriteHeader(http.StatusBadGateway)
		}
		return broken.Load()
	}
	g.sessions.before = func() { broken.Store(true) }
	g.event(t, o, alice())
	g.polling()
	eventually(t, "acknowledgements fail", func() bool { return g.counts.of(PollFailed) >= 2 })
	if o.left() != 1 {
		t.Fatal("it was acknowledged all the same")
	}
	broken.Store(false)
	eventually(t, "the event is acknowledged", func() bool { return o.left() == 0 })
	if did := g.sessions.taken(); len(did) != 1 || g.counts.of(EventRepeated) > 0 {
		t.Errorf("did %q", did)
	}
}

// Who stops says first what has been done: or it would be done again, to those who have signed in since.
func TestPollFarewell(t *testing.T) {
	g := newRig(t)
	o := g.outbox()
	g.event(t, o, alice())
	g.event(t, o, issSub(provider, "bob"))
	ctx, cancel := context.WithCancel(t.Context())
	g.sessions.before = cancel
	newPoller(g.receiver()).run(ctx)
	if did := g.sessions.taken(); len(did) != 1 || o.left() != 1 {
		t.Errorf("did %q, and %d events are left", did, o.left())
	}
	if q, _ := o.request(1); o.asked() != 2 || !q.ReturnImmediately || q.MaxEvents == nil || *q.MaxEvents != 0 {
		t.Errorf("the last of %d requests was %+v", o.asked(), q)
	}
}

// Run polls those that are to be polled.
func TestRun(t *testing.T) {
	g := newRig(t)
	o := g.outbox()
	g.event(t, o, alice())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	s := g.signals()
	go func() { ended <- s.Run(ctx) }()
	eventually(t, "the event is acknowledged", func() bool { return o.left() == 0 })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
