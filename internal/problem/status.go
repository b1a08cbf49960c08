package problem

import "net/http"

// HTTPStatus is the status with which the API answers the problem: that of its
// kind, or a narrower one where HTTP has a word for it.
func (p *Problem) HTTPStatus() int {
	switch p.Code {
	case NotAuthenticated:
		return http.StatusUnauthorized
	case PreconditionFailed:
		return http.StatusPreconditionFailed
	case IdempotencyKeyReused:
		return http.StatusUnprocessableEntity
	case TooManyAttempts:
		return http.StatusTooManyRequests
	}
	switch p.Kind {
	case Invalid:
		return http.StatusBadRequest
	case NotFound:
		return http.StatusNotFound
	case NotAllowed:
		return http.StatusForbidden
	case Conflict:
		return http.StatusConflict
	case Unavailable:
		return http.StatusServiceUnavailable
	case Exhausted:
		return http.StatusInsufficientStorage
	default:
		return http.StatusInternalServerError
	}
}
