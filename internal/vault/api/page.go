package api

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// ListIn are the query parameters of lists; exported because huma reads
// embedded structs only when they are.
type ListIn struct {
	Limit int    `query:"limit" minimum:"0" maximum:"10000" doc:"rows on a page at most (1000)"`
	After string `query:"after" doc:"'next' of the page before"`
	Sort  string `query:"sort" doc:"the field to sort by; with '-' before it, downwards"`
}

// defaultLimit is how many rows a page has when the caller does not say.
const defaultLimit = 1000

func limitOf(n int) int {
	if n == 0 {
		return defaultLimit
	}
	return n
}

// listReply is a page of a list.
type listReply[T any] struct {
	Link string `header:"Link"`
	Body rest.List[T]
}

// next says where the following page is.
func (l *listReply[T]) next(ctx context.Context, after string) {
	u := *requestOf(ctx).url
	q := u.Query()
	q.Set("after", after)
	u.RawQuery = q.Encode()
	l.Body.Next, l.Link = after, "<"+u.RequestURI()+`>; rel="next"`
}

// order is what a list can be sorted by: strings, numbers, times or booleans.
type order[T any] map[string]func(T) any

// cursor is the last row of a page. The following page begins behind it, also
// when it is gone by then.
type cursor struct {
	Sort string `json:"s"`
	Key  string `json:"k"`
	ID   string `json:"i"`
}

// keyed is a row with what it is sorted by, as a string that sorts alike.
type keyed[T any] struct {
	row     T
	key, id string
}

// pageOf sorts rows and cuts a page out of them; id is unique.
func pageOf[T any](ctx context.Context, in ListIn, rows []T, id func(T) string, by order[T]) (*listReply[T], error) {
	field, down := strings.CutPrefix(in.Sort, "-")
	value, ok := by[field]
	if field == "" && !down {
		value, ok = func(T) any { return "" }, true
	}
	if !ok {
		return nil, problem.New(problem.InvalidRequest, "cannot sort by %q: want one of %s", field, strings.Join(slices.Sorted(maps.Keys(by)), ", "))
	}
	all := make([]keyed[T], len(rows))
	for i, r := range rows {
		all[i] = keyed[T]{r, sortable(value(r)), id(r)}
	}
	compare := func(a, b keyed[T]) int {
		c := cmp.Compare(a.key, b.key)
		if down {
			c = -c
		}
		return cmp.Or(c, cmp.Compare(a.id, b.id))
	}
	slices.SortFunc(all, compare)
	out := &listReply[T]{}
	out.Body.Total = len(all)
	start, err := startOf(in, all, compare)
	if err != nil {
		return nil, err
	}
	page := all[start:]
	if limit := limitOf(in.Limit); len(page) > limit {
		page = page[:limit]
		last := page[limit-1]
		b, err := json.Marshal(cursor{in.Sort, last.key, last.id})
		if err != nil {
			return nil, fmt.Errorf("encode cursor: %w", err)
		}
		out.next(ctx, base64.RawURLEncoding.EncodeToString(b))
	}
	out.Body.Items = make([]T, len(page))
	for i, k := range page {
		out.Body.Items[i] = k.row
	}
	return out, nil
}

// pageRead is a page of the rows that one reading of the store returns.
func pageRead[T any](ctx context.Context, s *Server, in ListIn, read func(*store.Tx) ([]T, error), id func(T) string, by order[T]) (*listReply[T], error) {
	var rows []T
	if err := s.view(ctx, func(tx *store.Tx) (err error) { rows, err = read(tx); return err }); err != nil {
		return nil, err
	}
	return pageOf(ctx, in, rows, id, by)
}

func startOf[T any](in ListIn, all []keyed[T], compare func(a, b keyed[T]) int) (int, error) {
	if in.After == "" {
		return 0, nil
	}
	var c cursor
	b, err := base64.RawURLEncoding.DecodeString(in.After)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil || c.Sort != in.Sort {
		return 0, problem.New(problem.InvalidRequest, "'after' is not the 'next' of a page of this list in this order")
	}
	at, found := slices.BinarySearchFunc(all, keyed[T]{key: c.Key, id: c.ID}, compare)
	if found {
		at++
	}
	return at, nil
}

// sortable turns a value into a string that sorts as the value does.
func sortable(v any) string {
	switch v := v.(type) {
	case int:
		return fmt.Sprintf("%020d", v)
	case int64:
		return fmt.Sprintf("%020d", v)
	case float64:
		return fmt.Sprintf("%030.6f", v)
	case bool:
		return fmt.Sprint(v)
	case time.Time:
		return v.UTC().Format("2006-01-02T15:04:05.000000000Z")
	default:
		return fmt.Sprint(v)
	}
}

// keepIf returns the rows that pass.
func keepIf[T any](rows []T, pass func(T) bool) []T {
	out := make([]T, 0, len(rows))
	for _, r := range rows {
		if pass(r) {
			out = append(out, r)
		}
	}
	return out
}

// wants reports whether a row's value is the one asked for, if any is.
func wants[S ~string](asked, have S) bool { return asked == "" || asked == have }
