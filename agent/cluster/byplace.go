// SPDX-License-Identifier: Apache-2.0

package cluster

// placed is what has an order and knows its place in a heap.
type placed[T any] interface {
	before(T) bool
	place() *int
}

// byPlace is a heap (container/heap), the first first.
type byPlace[T placed[T]] []T

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
