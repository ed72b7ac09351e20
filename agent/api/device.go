// SPDX-License-Identifier: Apache-2.0

package api

// DeviceRequest starts a sign-in by a code that the user enters on any device (RFC 8628), for the client key of the
// connection it comes on.
type DeviceRequest struct {
	Provider    string `json:"provider,omitempty"`     // may be empty if only one is configured
	BindAddress bool   `json:"bind_address,omitempty"` // as in LoginRequest
}

// DeviceStarted is what the user has to be shown, and what to ask with whether the code was entered.
type DeviceStarted struct {
	Provider                string  `json:"provider"`
	UserCode                string  `json:"user_code"`
	VerificationURI         string  `json:"verification_uri"`
	VerificationURIComplete string  `json:"verification_uri_complete,omitempty"` // with the code in it
	ExpiresIn               Seconds `json:"expires_in_seconds"`
	Interval                Seconds `json:"interval_seconds"`
	Login                   string  `json:"login"` // for DevicePoll; of use with the same client key only
}

// DevicePoll asks whether the user has entered the code.
type DevicePoll struct {
	Login string `json:"login"`
}

// DevicePending says that the user has not. The agent asks the provider no sooner than after Interval, however often it
// is asked itself.
type DevicePending struct {
	Interval Seconds `json:"interval_seconds"`
	Problem  string  `json:"problem,omitempty"` // what is wrong meanwhile, for people
}
