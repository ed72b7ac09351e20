// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-proxy/curfew/agent/jose"
)

// How transmitters are polled.
const (
	pollEvents   = 64               // asked for at once
	pollHold     = 90 * time.Second // for how long the transmitter may hold back an answer
	pollQuiet    = 5 * time.Second  // from one poll to the next, where it does not, or has events that cannot be acted upon yet
	pollFirst    = time.Second      // after a failure; doubles
	pollMax      = time.Minute
	pollRespect  = 5 * time.Minute // how long a Retry-After is heeded
	pollFarewell = 2 * time.Second
)

// poller fetches the events of one transmitter: RFC 8936. Only one goroutine may use it.
type poller struct {
	*receiver
	client *http.Client  // patient: the transmitter holds its answers back
	first  time.Duration // pollFirst, but in tests

	events  int // to ask for; fewer after an answer that was too big
	backoff time.Duration
	// What the transmitter is to be told of the events that it has delivered. It is kept until an answer shows that it was.
	acks []string
	errs map[string]refusalJSON
}

func newPoller(r *receiver) *poller {
	patient := *r.client
	patient.Timeout = pollHold
	return &poller{receiver: r, client: &patient, first: pollFirst, events: pollEvents}
}

// run polls until ctx is done. What has been done by then is acknowledged, so that it is not done again.
func (p *poller) run(ctx context.Context) {
	for ctx.Err() == nil {
		wait, err := p.poll(ctx)
		if ctx.Err() != nil {
			break
		}
		if err == nil {
			p.backoff = 0
		} else {
			p.backoff = min(max(2*p.backoff, p.first), pollMax)
			wait = max(wait, p.backoff)
			p.count(PollFailed)
			p.log.Warn("security events cannot be polled", "error", err, "retry_in", wait)
		}
		sleep(ctx, wait-rand.N(wait/4+1))
	}
	if len(p.acks)+len(p.errs) > 0 {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pollFarewell)
		defer cancel()
		_, _, _ = p.exchange(ctx, pollRequest{MaxEvents: new(int), ReturnImmediately: true, Ack: p.acks, SetErrs: p.errs}) // else it delivers them again
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// poll asks for events once, and acts upon those that come. It returns for how long to wait until the next time.
func (p *poller) poll(ctx context.Context) (wait time.Duration, err error) {
	began := time.Now()
	told := pollRequest{MaxEvents: &p.events, Ack: p.acks, SetErrs: p.errs}
	sets, more, err := p.exchange(ctx, told)
	if err != nil {
		return p.obstacle(err), err
	}
	p.acks, p.errs = nil, nil
	news, undone := more, false
	for _, s := range sets {
		if ctx.Err() != nil {
			return 0, nil // the rest is delivered again
		}
		news = news || !told.has(s.jti)
		undone = !p.deliver(ctx, s) || undone
	}
	if !news || undone { // else a transmitter that is not told, or does not listen, is asked in a loop
		wait = max(0, p.quiet-time.Since(began))
	}
	return wait, nil
}

// deliver acts upon one event. It reports whether that is done: if not, the event is neither acknowledged nor refused, so
// that it is delivered again.
func (p *poller) deliver(ctx context.Context, s delivered) bool {
	err := p.takeNamed(ctx, s)
	var refused *refusal
	switch {
	case err == nil:
		p.acks = append(p.acks, s.jti)
	case errors.As(err, &refused):
		if p.errs == nil {
			p.errs = map[string]refusalJSON{}
		}
		p.errs[s.jti] = refused.json()
	default:
		return false
	}
	return true
}

// takeNamed acts upon an event that the transmitter has delivered under a name: that of its jti.
func (p *poller) takeNamed(ctx context.Context, s delivered) error {
	c, err := jose.Unverified(s.token)
	if err == nil {
		if jti, _ := c.Text("jti"); jti != s.jti {
			err = errors.New("its claim jti is not the name that it was delivered under")
		}
	}
	if err != nil {
		return p.failed(p.log.With("delivery", "poll", "jti", jose.Printable(s.jti)), &refusal{codeRequest, err})
	}
	return p.take(ctx, s.token, "poll")
}

// pollRequest is what a recipient says: RFC 8936, section 2.2.
type pollRequest struct {
	MaxEvents         *int                   `json:"maxEvents,omitempty"`
	ReturnImmediately bool                   `json:"returnImmediately"`
	Ack               []string               `json:"ack,omitempty"`
	SetErrs           map[string]refusalJSON `json:"setErrs,omitempty"`
}

// has reports whether the transmitter is told what has become of an event.
func (q *pollRequest) has(jti string) bool {
	_, refused := q.SetErrs[jti]
	return refused || slices.Contains(q.Ack, jti)
}

// delivered is a SET as it comes.
type delivered struct{ jti, token string }

// exchange sends a request, and reads the answer.
func (p *poller) exchange(ctx context.Context, q pollRequest) (sets []delivered, more bool, err error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, false, err
	}
	answer, err := p.post(ctx, body, len(q.SetErrs) > 0)
	if err != nil {
		return nil, false, err
	}
	if sets, more, err = parseSets(answer); err != nil {
		return nil, false, fmt.Errorf("the answer: %w", err)
	}
	return sets, more, nil
}

// parseSets reads what a transmitter delivers: RFC 8936, section 2.3. Where a part of it is broken, none of it is believed.
func parseSets(answer []byte) (sets []delivered, more bool, err error) {
	c, err := jose.ParseClaims(answer)
	if err != nil {
		return nil, false, err
	}
	if raw, has := c["moreAvailable"]; has && json.Unmarshal(raw, &more) != nil {
		return nil, false, errors.New("moreAvailable is no truth value")
	}
	var byName map[string]*string
	if raw, has := c["sets"]; !has || json.Unmarshal(raw, &byName) != nil || byName == nil {
		return nil, false, errors.New("sets is not an object of strings")
	}
	for jti, token := range byName {
		if token == nil {
			return nil, false, errors.New("sets is not an object of strings")
		}
		sets = append(sets, delivered{jti, *token})
	}
	slices.SortFunc(sets, func(a, b delivered) int { return strings.Compare(a.jti, b.jti) }) // their order means nothing
	return sets, more, nil
}

// statusError is an answer that is none.
type statusError struct {
	status int
	after  time.Duration // as the transmitter wishes
}

func (e *statusError) Error() string { return fmt.Sprintf("the transmitter answered %d", e.status) }

func (p *poller) post(ctx context.Context, body []byte, withErrors bool) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.cfg.PollURL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	if withErrors {
		r.Header.Set("Content-Language", "en")
	}
	refused, err := p.access.authorize(r)
	if err != nil {
		return nil, err
	}
	status, answer, header, err := roundTrip(p.client, r)
	if err != nil {
		return nil, err
	}
	if status == http.StatusUnauthorized {
		refused()
	}
	if status != http.StatusOK {
		seconds, _ := strconv.Atoi(header.Get("Retry-After")) // 0 if there is none, or a date
		return nil, &statusError{status, time.Duration(max(0, seconds)) * time.Second}
	}
	return answer, nil
}

// obstacle returns for how long the transmitter wants to be left alone after a failure, and asks for less after an answer
// that was too big.
func (p *poller) obstacle(err error) time.Duration {
	var answered *statusError
	if errors.As(err, &answered) {
		return min(answered.after, pollRespect)
	}
	if errors.Is(err, jose.ErrTooBig) {
		p.events = max(1, p.events/4)
	}
	return 0
}
