// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"io"
	"net/http"
)

// roundTrip sends a request and reads the whole answer, whose size client bounds. Its error has nothing of the
// answer in it.
func roundTrip(client *http.Client, r *http.Request) (status int, body []byte, header http.Header, err error) {
	resp, err := client.Do(r)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, nil, err
	}
	return resp.StatusCode, body, resp.Header, nil
}
