// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/bpf"
)

// BreakGlass says which agent KillLocal is about.
type BreakGlass struct {
	Run      string // its run directory
	Instance string // its name on the host; empty: what the run directory says, or the only one there is
}

// KillLocal ends sessions by the pinned objects in the kernel alone: it needs no process of the agent to
// be alive, and works while they are stopped. What it ends stays ended: the proxy process
// cannot bring an entry back, and finds word of it in the state directory when it wakes or starts.
// Only All, Session and Subject can be chosen by: the kernel knows no more. Needs root.
func KillLocal(b BreakGlass, req api.KillRequest) (api.KillResult, error) {
	if req.Group != "" || req.Service != "" || req.Where != "" {
		return api.KillResult{}, &api.Error{Code: api.CodeBadRequest, Message: "--local knows sessions and subjects only",
			Hint: "choose with a session, --subject or --all"}
	}
	began := time.Now()
	info, infoErr := readRunInfo(b.Run)
	instance, err := b.instance(info)
	if err != nil {
		return api.KillResult{}, err
	}
	pinned, err := bpf.OpenPinned(instance)
	if errors.Is(err, os.ErrNotExist) && info.PID != 0 {
		pinned, err = bpf.OpenPinned(instance, info.PID)
	}
	if err != nil {
		return api.KillResult{}, fmt.Errorf("instance %s: %w", instance, err)
	}
	defer func() { _ = pinned.Close() }() // descriptors only
	if req.DryRun {
		return previewLocal(pinned, req)
	}
	if infoErr == nil {
		infoErr = localKill{At: began, All: req.All, Session: strings.ToLower(req.Session), Subject: req.Subject, Reason: req.Reason}.leaveWord(info.State)
	}
	var report bpf.PinnedReport
	if req.All {
		if report, err = pinned.End(func(bpf.PinnedSession) bool { return true }); err == nil {
			_, err = pinned.EndAll() // also what came while the list was read
		}
	} else {
		report, err = pinned.End(matchLocal(req))
	}
	result := localResult(report, time.Since(began))
	result.Verified = err == nil
	result.Noted = infoErr == nil
	if errors.Is(err, bpf.ErrLeft) {
		err = nil // the result says which, as that of the agent does
	}
	if err == nil && infoErr != nil {
		err = fmt.Errorf("ended, but an agent that restarts might not know: %w", infoErr)
	}
	return result, err
}

func matchLocal(req api.KillRequest) func(bpf.PinnedSession) bool {
	prefix := strings.ToLower(req.Session)
	return func(s bpf.PinnedSession) bool {
		return strings.HasPrefix(s.Label.Session.String(), prefix) && (req.Subject == "" || sameSubject(s.Label.Subject, req.Subject))
	}
}

// sameSubject compares with a label, which is cut at 127 bytes: then its beginning has to do.
func sameSubject(label, subject string) bool {
	return label == subject || len(label) == 127 && strings.HasPrefix(subject, label)
}

func previewLocal(pinned *bpf.Pinned, req api.KillRequest) (api.KillResult, error) {
	sessions, err := pinned.Sessions()
	result := api.KillResult{DryRun: true}
	match := matchLocal(req)
	for _, s := range sessions {
		if req.All || match(s) {
			result.Sessions = append(result.Sessions, s.Label.Session)
		}
	}
	return result, err
}

func localResult(r bpf.PinnedReport, took time.Duration) api.KillResult {
	result := api.KillResult{Took: api.Seconds(took), Layers: []string{layerGate, "sweep"}, Shut: r.Shut}
	who := map[uint64]bpf.PinnedSession{}
	for _, s := range r.Sessions {
		who[s.Number] = s
		result.Sessions = append(result.Sessions, s.Label.Session)
	}
	add := func(rec bpf.Record, what string) {
		if rec.Socket.Leg != session.ClientLeg {
			return // one line a connection
		}
		s := who[rec.Number]
		result.Connections = append(result.Connections, api.KilledConnection{Outcome: what, ConnectionInfo: api.ConnectionInfo{
			Session: s.Label.Session, Subject: s.Label.Subject, Source: rec.Socket.Tuple.Remote, Client: rec.Socket,
		}})
	}
	for _, rec := range r.Destroyed {
		add(rec, api.OutcomeDestroyed)
	}
	result.Destroyed = len(result.Connections)
	// What was on the books and was not there to be destroyed: an agent that is well is at it too.
	onBooks := 0
	for _, s := range r.Sessions {
		onBooks += s.Conns / 2 // two sockets to a connection
	}
	result.Gone = max(0, onBooks-result.Destroyed-len(r.Left)/2)
	for _, rec := range r.Left {
		add(rec, api.OutcomeLeft)
	}
	result.Left = len(r.Left)
	return result
}

func readRunInfo(run string) (RunInfo, error) {
	var info RunInfo
	body, err := os.ReadFile(runInfoPath(run))
	if err == nil {
		err = json.Unmarshal(body, &info)
	}
	if err != nil {
		return info, fmt.Errorf("run directory: %w", err)
	}
	return info, nil
}

func (b BreakGlass) instance(info RunInfo) (string, error) {
	if b.Instance != "" {
		return b.Instance, nil
	}
	if info.Instance != "" {
		return info.Instance, nil
	}
	names, err := bpf.Instances()
	switch {
	case err != nil:
		return "", err
	case len(names) == 0:
		return "", &api.Error{Code: api.CodeNotFound, Message: "no agent has pinned anything on this host", Hint: "is this the right host, and are you root?"}
	case len(names) > 1:
		return "", &api.Error{Code: api.CodeBadRequest, Message: fmt.Sprintf("several agents are on this host: %s", strings.Join(names, ", ")),
			Hint: "choose one with --instance"}
	}
	return names[0], nil
}
