// Package webhook posts events to the URLs that operators named, signed as Standard Webhooks has it
// (https://www.standardwebhooks.com): each at least once, with the event's id in webhook-id.
//
// It knows neither the database nor the control plane: what is to be posted comes from a Queue.
//
//	sender.go   which webhooks have something, one lane for each
//	post.go     one attempt: the body, the signature, what counts as taken
//	dial.go     where may be posted to
//	secret.go   secrets: made, checked, signed with
//
// A receiver answers 2xx within 10 s. Anything else, redirects too, is tried again by the queue's back-off; 410 says
// that it wants no more. Several events are posted at once, and a failed one later, so they arrive in no order: the id
// tells which came first, and which came twice.
package webhook
