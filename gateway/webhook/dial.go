package webhook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"
)

// urlMax is the longest URL of a webhook.
const urlMax = 2048

// errForbidden says that a webhook's host has an address where nothing is posted to.
var errForbidden = errors.New("is not an address that webhooks may reach")

// Networks are the networks besides the public internet that webhooks may reach, and without TLS, such as the
// operator's own. An event could otherwise be made to call what only this host can see: a cloud's metadata, a database.
type Networks []netip.Prefix

// ParseNetworks reads CIDR prefixes and addresses.
func ParseNetworks(list []string) (Networks, error) {
	out := make(Networks, 0, len(list))
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if addr, aerr := netip.ParseAddr(s); aerr == nil {
			p, err = addr.Prefix(addr.BitLen())
		}
		if err != nil {
			return nil, fmt.Errorf("webhook_networks: %q is neither an IP address nor a CIDR prefix", s)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

func (n Networks) has(a netip.Addr) bool {
	return slices.ContainsFunc(n, func(p netip.Prefix) bool { return p.Contains(a) })
}

// CheckURL says what is wrong with a webhook's URL. Names are looked up when it is posted to, each time, and every
// address they have then is checked once more.
func (n Networks) CheckURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || len(s) > urlMax {
		return fmt.Errorf("url must be a URL of at most %d bytes", urlMax)
	}
	addr, notIP := netip.ParseAddr(u.Hostname())
	literal := notIP == nil
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("url must begin with https://, such as https://example.com/hook")
	case u.Hostname() == "" || u.User != nil || u.Fragment != "":
		return errors.New("url must have a host, and neither user nor fragment")
	case u.Scheme == "https" && literal && !n.has(addr.Unmap()) && !public(addr.Unmap()):
		return fmt.Errorf("url: %s %w; name its network in webhook_networks", addr, errForbidden)
	case u.Scheme == "https":
		return nil
	case literal && n.has(addr.Unmap()), u.Hostname() == "localhost" && n.has(netip.AddrFrom4([4]byte{127, 0, 0, 1})):
		return nil
	}
	return errors.New("url must begin with https://; http:// is for addresses in webhook_networks")
}

// special are the networks that netip does not know to be no part of the public internet: shared and protocol
// addresses, documentation, benchmarks, reserved, and those that hold an IPv4 address which is not looked at.
func special() Networks {
	var out Networks
	for s := range strings.FieldsSeq("0.0.0.0/8 100.64.0.0/10 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 198.18.0.0/15 " +
		"198.51.100.0/24 203.0.113.0/24 240.0.0.0/4 ::/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 2001::/23 2001:db8::/32 " +
		"2002::/16 3fff::/20 5f00::/16 fec0::/10") {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func public(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && !special().has(a)
}

// dialer connects to where may be posted to, and nowhere else. The check is made on the address that is about to be
// dialled, after the name was looked up, so that a name which changes between check and use gains nothing.
func (n Networks) dialer(tls bool) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{
		Timeout: dialTimeout,
		Control: func(_, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			if a := at.Addr().Unmap().WithZone(""); !n.has(a) && (!tls || !public(a)) {
				return fmt.Errorf("%s %w", a, errForbidden)
			}
			return nil
		},
	}
	return d.DialContext
}

const dialTimeout = 5 * time.Second
