// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// endings ends sessions at the word of others: providers, and who else tells the agent about users. It
// implements identity.Ender. Safe for concurrent use.
type endings struct {
	table   *session.Table
	clock   session.Clock
	cluster *clusterNode // nil: this node is in none
	// keep is for how long no session is in use that is being created now, or was before.
	keep func() time.Duration
	// ask asks the providers about sessions whose tokens this node holds, which held tells; reauthorise asks policy.
	ask         func(ctx context.Context, which func(session.ID) bool) int
	held        func(session.ID) bool
	reauthorise func(context.Context, ...session.ID)
}

// endingsKeep is the least time for which it is remembered that somebody was signed out: sign-ins that are under way
// are long over then.
const endingsKeep = 24 * time.Hour

// End implements identity.Ender.
func (e *endings) End(_ context.Context, who session.Match, end session.End) (int, error) {
	if err := who.Check(); err != nil {
		return 0, err
	}
	ended, err := e.raiseAll(e.watermarks(who), session.Watermark{Keep: max(e.keep(), endingsKeep), End: end})
	errs := []error{err}
	if s, err := e.table.ByID(who.ID); err == nil && who.Matches(&s) {
		_, err := e.table.End(who.ID, end) // other nodes are told
		var over *session.EndedError
		switch {
		case err == nil:
			ended++
		case !errors.As(err, &over) && !errors.Is(err, session.ErrNotFound):
			errs = append(errs, err)
		}
	}
	return ended, errors.Join(errs...)
}

// EndUntilFresh implements signals.Sessions. That is remembered for as long as anything is: how long a provider's single sign-on
// lasts is not known, and browsers keep cookies for little longer.
func (e *endings) EndUntilFresh(_ context.Context, who session.Match, end session.End, since time.Time) (int, error) {
	if err := who.Check(); err != nil {
		return 0, err
	}
	if who.Issuer == "" || !who.ID.IsZero() || who.Unnamed {
		return 0, errors.New("a fresh sign-in is asked for of a user, or of a session, of a provider")
	}
	list := e.watermarks(who)
	if who.Email != "" { // also of those who are not signed in
		list = append(list, session.Watermark{Issuer: who.Issuer, Subject: session.EmailSubject(who.Email)})
	}
	return e.raiseAll(list, session.Watermark{Keep: session.MaxLifetime, End: end, Fresh: session.FreshFrom(since)})
}

// raiseAll raises watermarks that differ in whom they are about, and returns how many sessions ended here.
func (e *endings) raiseAll(about []session.Watermark, as session.Watermark) (ended int, all error) {
	for _, w := range about {
		as.Issuer, as.Subject, as.SID = w.Issuer, w.Subject, w.SID
		as.Before = session.OriginTime(e.clock.Boot())
		list, err := e.raise(as)
		ended, all = ended+len(list), errors.Join(all, err)
	}
	return ended, all
}

// Reconsider implements signals.Sessions: each node asks the provider about the sessions that began there, for it has their
// tokens, and policy about the connections that it has.
func (e *endings) Reconsider(ctx context.Context, who session.Match) (int, error) {
	if err := who.Check(); err != nil {
		return 0, err
	}
	ids, err := e.reconsiderHere(ctx, who)
	if silent := e.cluster.reconsiderElsewhere(ctx, who); len(silent) > 0 {
		err = errors.Join(err, fmt.Errorf("nodes that do not answer: %v", silent))
	}
	return len(ids), err
}

// reconsiderHere asks the provider about the sessions that began at this node, which it returns, and policy about the connections
// that any of those meant has here.
func (e *endings) reconsiderHere(ctx context.Context, who session.Match) (mine []session.ID, err error) {
	var all []session.ID
	for _, found := range e.table.Select(session.Selector{Where: func(s session.Session, _ []*session.Connection) bool { return who.Matches(&s) }}, false) {
		s := &found.Session
		if all = append(all, s.ID); e.cluster == nil || s.Origin.Node == e.cluster.time.Self().Node {
			mine = append(mine, s.ID)
		}
	}
	err = e.endUnknown(mine)
	e.ask(ctx, func(id session.ID) bool { return slices.Contains(mine, id) })
	e.reauthorise(ctx, all...)
	return mine, err
}

// endUnknown ends those of the sessions of which nobody can be asked: somebody who should know says that things have changed.
func (e *endings) endUnknown(ids []session.ID) error {
	var errs []error
	for _, id := range ids {
		if e.held(id) {
			continue
		}
		_, err := e.table.End(id, session.End{Reason: session.ReasonUnvalidated, Message: "its claims have changed, and the provider cannot be asked", At: e.clock.Wall()})
		var over *session.EndedError
		if err != nil && !errors.As(err, &over) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// watermarks are those that end everybody who is meant. Of an e-mail address, nobody knows whose it is but those who are
// signed in: somebody who is signing in is not among them.
func (e *endings) watermarks(who session.Match) []session.Watermark {
	switch {
	case !who.ID.IsZero():
		return nil
	case who.Unnamed:
		return []session.Watermark{{Issuer: who.Issuer, Subject: who.Subject, SID: session.UnnamedSID}}
	case who.SID != "":
		return []session.Watermark{{Issuer: who.Issuer, SID: who.SID}}
	case who.Email == "":
		return []session.Watermark{{Issuer: who.Issuer, Subject: who.Subject}}
	}
	type person struct{ issuer, subject string }
	seen := map[person]bool{}
	var list []session.Watermark
	for _, found := range e.table.Select(session.Selector{Where: func(s session.Session, _ []*session.Connection) bool { return who.Matches(&s) }}, false) {
		p := person{found.Session.Identity.Issuer, found.Session.Identity.Subject}
		if !seen[p] {
			seen[p] = true
			list = append(list, session.Watermark{Issuer: p.issuer, Subject: p.subject})
		}
	}
	return list
}

func (e *endings) raise(w session.Watermark) (list []session.Ending, err error) {
	if e.cluster != nil {
		w.Origin = e.cluster.time.Self()
		return e.cluster.engine.Raise(w)
	}
	w.End.At = cmp.Or(w.End.At, e.clock.Wall())
	_, list, err = e.table.Raise(w)
	return list, err
}
