// SPDX-License-Identifier: Apache-2.0

package signals

// Outcomes that are counted; the agent makes metrics of them.
const (
	// Of a security event, or of an attempt to deliver one.
	EventEnded           = "event-ended"           // sessions were ended, if there were any
	EventReconsidered    = "event-reconsidered"    // the provider and policy were asked again about sessions
	EventIgnored         = "event-ignored"         // by its type or by configuration, it is no concern of ours
	EventUnmapped        = "event-unmapped"        // its subject is nobody who could be known
	EventForeign         = "event-foreign"         // its subject is at an issuer that the transmitter may not speak of
	EventCritical        = "event-critical"        // its subject has a critical member that is not understood
	EventRepeated        = "event-repeated"        // it was known already
	EventVerification    = "event-verification"    // the stream works
	EventStreamUpdated   = "event-stream-updated"  // the transmitter has changed the stream's status
	EventRefused         = "event-refused"         // it is not good
	EventUnauthenticated = "event-unauthenticated" // who pushed it is not the transmitter
	EventLimited         = "event-limited"         // too many of one source were refused
	EventFull            = "event-full"            // too many to remember; to be tried again
	EventUnavailable     = "event-unavailable"     // the transmitter's keys cannot be had; to be tried again
	EventFailed          = "event-failed"          // sessions could not all be ended; to be tried again
	PollFailed           = "poll-failed"           // the transmitter was not reached, or its answer was refused

	ScimEnded           = "scim-ended"           // a user was deactivated or deleted
	ScimReconsidered    = "scim-reconsidered"    // a user's groups have changed
	ScimIgnored         = "scim-ignored"         // a change that is no concern of ours
	ScimRefused         = "scim-refused"         //
	ScimUnauthenticated = "scim-unauthenticated" //
	ScimLimited         = "scim-limited"         //
	ScimFailed          = "scim-failed"          // sessions could not all be ended; to be tried again

	WebhookEnded           = "webhook-ended"           //
	WebhookRefused         = "webhook-refused"         //
	WebhookUnauthenticated = "webhook-unauthenticated" //
	WebhookLimited         = "webhook-limited"         //
	WebhookFailed          = "webhook-failed"          // sessions could not all be ended; to be tried again
)
