// SPDX-License-Identifier: Apache-2.0

package config

// suggest returns the candidate that have was probably meant to be, or "".
func suggest(have string, candidates []string) string {
	best, least := "", len(have)/3+2 // more slips than that, and it is another word
	for _, c := range candidates {
		if d := distance(have, c); d < least {
			best, least = c, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of neighbours between a and b.
func distance(a, b string) int {
	const longest = 64 // keys are shorter; it bounds the work on garbage
	if len(a) > longest || len(b) > longest {
		return len(a) + len(b)
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
