// SPDX-License-Identifier: Apache-2.0

package cluster

// byPlace is a heap (container/heap), the first first, of what knows its place in it.
type byPlace[T interface {
	before(T) bool
	place() *int
}] []T

func (h byPlace[T]) Len() int           { return len(h) }
func (h byPlace[T]) Less(i, j int) bool { return h[i].before(h[j]) }
func (h byPlace[T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	*h[i].place(), *h[j].place() = i, j
}

func (h *byPlace[T]) Push(x any) {
	e := x.(T)
	*e.place() = len(*h)
	*h = append(*h, e)
}

func (h *byPlace[T]) Pop() any {
	old := *h
	last := len(old) - 1
	e := old[last]
	var none T
	old[last] = none // or it would stay in memory
	*h = old[:last]
	return e
}
