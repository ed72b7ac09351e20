// SPDX-License-Identifier: Apache-2.0

package signals

// Statuses of streams: SSF 1.0, section 8.1.2.1.
const (
	statusEnabled  = "enabled"
	statusPaused   = "paused"
	statusDisabled = "disabled"
)
