// SPDX-License-Identifier: Apache-2.0

package api

import "encoding/json"

// What an operator can do with the streams of a transmitter.
const (
	StreamsList    = "list"
	StreamsCreate  = "create"
	StreamsUpdate  = "update" // to what create would ask for now
	StreamsAdd     = "add"    // a subject
	StreamsRemove  = "remove" // a subject
	StreamsVerify  = "verify"
	StreamsEnable  = "enable"
	StreamsPause   = "pause"
	StreamsDisable = "disable"
	StreamsDelete  = "delete"
)

// StreamsRequest does something with the streams of events of a transmitter.
type StreamsRequest struct {
	Transmitter string `json:"transmitter"`
	Do          string `json:"do"`
	Stream      string `json:"stream,omitempty"` // its id; for all but list and create
	Poll        bool   `json:"poll,omitempty"`   // create, update: events are to be fetched, not pushed
	// Subject is whom to add or remove: a subject identifier (RFC 9493).
	Subject     json.RawMessage `json:"subject,omitempty"`
	Description string          `json:"description,omitempty"`
	Reason      string          `json:"reason,omitempty"` // enable, pause, disable: the transmitter is told
}

// StreamInfo is a stream as its transmitter tells.
type StreamInfo struct {
	ID          string   `json:"id"`
	Delivery    string   `json:"delivery"` // "push" or "poll"
	Endpoint    string   `json:"endpoint"`
	Events      []string `json:"events"` // that are delivered
	Status      string   `json:"status,omitempty"`
	Reason      string   `json:"reason,omitempty"`
	Description string   `json:"description,omitempty"`
	Hint        string   `json:"hint,omitempty"` // what remains to be done
}
