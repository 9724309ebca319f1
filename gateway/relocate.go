package gateway

import "strings"

// A backend that writes its own address into an answer, as frameworks do when they redirect to a trailing slash, would
// lead the client around the meter, with its API key. nginx (proxy_redirect: Location, Refresh) and httpd
// (ProxyPassReverse: Location, Content-Location) rewrite such fields, and so does the gateway, with two more that clients
// follow. A URL in a body is the policy's or the backend's affair.

// relocated is a field of an answer's head, in which what names one of the backends has become a path on the gateway.
func (us *upstreams) relocated(name string, v []byte) []byte {
	switch name {
	case "Location", "Content-Location", "Operation-Location":
		return []byte(us.relocateURL(string(v)))
	case "Refresh":
		return []byte(us.relocateRefresh(string(v)))
	case "Link":
		return []byte(us.relocateLink(string(v)))
	}
	return v
}

func (us *upstreams) relocateURL(v string) string {
	if path, ok := us.onGateway(v); ok {
		return path
	}
	return v
}

// relocateRefresh rewrites the URL of a value such as 5; url=http://backend/x.
func (us *upstreams) relocateRefresh(v string) string {
	at := strings.Index(strings.ToLower(v), "url=")
	if at < 0 {
		return v
	}
	at += len("url=")
	quote := ""
	if at < len(v) && (v[at] == '"' || v[at] == '\'') {
		quote = v[at : at+1]
	}
	if path, ok := us.onGateway(strings.TrimSuffix(v[at+len(quote):], quote)); ok {
		return v[:at] + quote + path + quote
	}
	return v
}

// relocateLink rewrites the target between < and > of each link of a line.
func (us *upstreams) relocateLink(v string) string {
	var line strings.Builder
	for {
		before, after, ok := strings.Cut(v, "<")
		target, tail, closed := strings.Cut(after, ">")
		if !ok || !closed {
			return line.String() + v
		}
		line.WriteString(before + "<" + us.relocateURL(target) + ">")
		v = tail
	}
}

// onGateway is the path of a URL whose authority is a backend's. ok is false for any other reference.
func (us *upstreams) onGateway(ref string) (path string, ok bool) {
	scheme, rest, ok := strings.Cut(ref, "://")
	switch {
	case strings.HasPrefix(ref, "//"):
		scheme, rest = "", ref[2:]
	case !ok || (!strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https")):
		return "", false
	}
	end := strings.IndexAny(rest, `/\?#`)
	if end < 0 {
		end = len(rest)
	}
	authority, path := rest[:end], rest[end:]
	if _, host, user := strings.Cut(authority, "@"); user {
		authority = host
	}
	if !us.named(strings.ToLower(scheme), authority) {
		return "", false
	}
	switch {
	case path == "" || path[0] == '?' || path[0] == '#':
		path = "/" + path
	case path[0] == '\\':
		path = "/" + path[1:]
	}
	if len(path) > 1 && (path[1] == '/' || path[1] == '\\') {
		path = "/." + path // else its second segment would be read as a host
	}
	return path, true
}

// named reports whether authority is a backend's, as in the Host header that it got, or with its port spelled otherwise.
// The scheme decides only the port: a backend behind the gateway may take itself for https.
func (us *upstreams) named(scheme, authority string) bool {
	for _, u := range us.list {
		if strings.EqualFold(authority, u.host) {
			return true
		}
		port := ""
		switch {
		case strings.LastIndexByte(authority, ':') > strings.LastIndexByte(authority, ']'):
			if strings.HasSuffix(authority, ":") {
				port = defaultPort(scheme)
			}
		case scheme == "":
			port = ":" + defaultPort(u.scheme)
		default:
			port = ":" + defaultPort(scheme)
		}
		if strings.EqualFold(authority+port, u.name) {
			return true
		}
	}
	return false
}

func defaultPort(scheme string) string {
	if scheme == "https" {
		return "443"
	}
	return "80"
}
