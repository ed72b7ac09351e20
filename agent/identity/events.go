// SPDX-License-Identifier: Apache-2.0

package identity

// Events that are counted; the agent makes metrics of them.
const (
	EventLoginStarted       = "login-started"
	EventLoginCompleted     = "login-completed"
	EventLoginRefused       = "login-refused"       // at its start: limits, no provider
	EventLoginExpired       = "login-expired"       // nobody finished it in time
	EventProviderRefused    = "provider-refused"    // the provider said no
	EventTokenRefused       = "token-refused"       // the provider said yes, but not convincingly
	EventStepUpRefused      = "step-up-refused"     // the provider signed somebody in, but not as a service asks
	EventFreshAsked         = "fresh-asked"         // of a user whose credential has changed: sent back to the provider
	EventFreshRefused       = "fresh-refused"       // the provider did not authenticate one anew
	EventBrowserRefused     = "browser-refused"     // a start or callback in the wrong browser
	EventCallbackUnknown    = "callback-unknown"    // a callback that belongs to no sign-in
	EventCodeUnknown        = "code-unknown"        // a one-time code that is wrong, used or expired
	EventCodeWrongKey       = "code-wrong-key"      // a one-time code presented with another's key
	EventDeviceUnanswered   = "device-unanswered"   // a provider did not say whether a code was entered
	EventMachineCompleted   = "machine-completed"   // a machine's token made a session
	EventMachineRefused     = "machine-refused"     // a token that is not good
	EventMachineDenied      = "machine-denied"      // a good one of somebody who may not sign in
	EventMachineReplayed    = "machine-replayed"    // with another key, or from before its session was ended
	EventMachineUnknown     = "machine-unknown"     // of no configured issuer
	EventMachineUnavailable = "machine-unavailable" // its issuer's keys cannot be had
	EventMachineLimited     = "machine-limited"     // too many were refused that came from there
	EventMachineFailed      = "machine-failed"      // the session table did not take the session
	EventLogout             = "logout"              //
	EventProviderLogout     = "provider-logout"     // the provider signed somebody out
	EventLogoutRefused      = "logout-refused"      // somebody said that the provider had, not convincingly
	EventRevalidated        = "revalidated"         // the provider stands by a session
	EventRevalidateRevoked  = "revalidate-revoked"  // it does not
	EventRevalidateFailed   = "revalidate-failed"   // it cannot be asked
	EventSealFailed         = "seal-failed"         // tokens could not be stored
	EventSealLost           = "seal-lost"           // stored tokens could not be opened
	EventRevoked            = "tokens-revoked"      //
	EventRevokeFailed       = "revoke-failed"       // it will be tried again
	EventRevokeGaveUp       = "revoke-gave-up"      // wiped unrevoked
	EventRevokeImpossible   = "revoke-impossible"   // the provider has no endpoint for it, or not for such tokens
)

func orIgnore(count func(string)) func(string) {
	if count == nil {
		return func(string) {}
	}
	return count
}
