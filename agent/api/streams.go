// SPDX-License-Identifier: Apache-2.0

package api

// What an operator can do with the streams of a transmitter.
const (
	StreamsList    = "list"
	StreamsCreate  = "create"
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
	Poll        bool   `json:"poll,omitempty"`   // create: events are to be fetched, not pushed
	Description string `json:"description,omitempty"`
	Reason      string `json:"reason,omitempty"` // enable, pause, disable: the transmitter is told
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
}
