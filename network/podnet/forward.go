package podnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// openForward lets the traffic of pods through forward chains of others that
// drop what they do not know, as Docker's iptables rules do. An accept in our
// table cannot do that: every chain of a hook must accept. So, as flannel and
// k3s do, two accept rules go to the front of each such chain. Chains that
// accept by default are left alone.
func (r *rules) openForward(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := nftables.New()
	if err != nil {
		return err
	}
	chains, err := c.ListChains()
	if err != nil {
		return err
	}
	for _, ch := range chains {
		if !dropsForward(ch) || ch.Table.Name == r.table.Name {
			continue
		}
		have, err := r.ourRules(c, ch)
		if err != nil {
			return err
		}
		if len(have) > 0 {
			continue
		}
		for _, key := range []expr.MetaKey{expr.MetaKeyOIFNAME, expr.MetaKeyIIFNAME} {
			c.InsertRule(&nftables.Rule{
				Table: ch.Table, Chain: ch, UserData: []byte(r.table.Name),
				Exprs: append(ifName(key, expr.CmpOpEq, r.pods), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}),
			})
		}
	}
	return errors.Join(c.Flush(), r.legacyForward(ctx, true))
}

// closeForward takes the rules of openForward back. r.mu is held.
func (r *rules) closeForward(ctx context.Context) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	chains, err := c.ListChains()
	if err != nil {
		return err
	}
	for _, ch := range chains {
		if ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward {
			continue
		}
		have, err := r.ourRules(c, ch)
		if err != nil {
			return err
		}
		for _, rule := range have {
			if err := c.DelRule(rule); err != nil {
				return err
			}
		}
	}
	return errors.Join(c.Flush(), r.legacyForward(ctx, false))
}

func dropsForward(ch *nftables.Chain) bool {
	return ch.Type == nftables.ChainTypeFilter && ch.Hooknum != nil && *ch.Hooknum == *nftables.ChainHookForward &&
		ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop
}

func (r *rules) ourRules(c *nftables.Conn, ch *nftables.Chain) ([]*nftables.Rule, error) {
	all, err := c.GetRules(ch.Table, ch)
	if err != nil {
		return nil, err
	}
	var ours []*nftables.Rule
	for _, rule := range all {
		if bytes.Equal(rule.UserData, []byte(r.table.Name)) {
			ours = append(ours, rule)
		}
	}
	return ours, nil
}

// legacyForward does the same where the old iptables is in use, which only its
// own program can change.
func (r *rules) legacyForward(ctx context.Context, open bool) error {
	var errs []error
	for names, program := range map[string]string{"/proc/net/ip_tables_names": "iptables-legacy", "/proc/net/ip6_tables_names": "ip6tables-legacy"} {
		data, err := os.ReadFile(names)
		if err != nil || !strings.Contains("\n"+string(data), "\nfilter\n") {
			continue
		}
		errs = append(errs, r.legacyRules(ctx, program, open))
	}
	return errors.Join(errs...)
}

func (r *rules) legacyRules(ctx context.Context, program string, open bool) error {
	path, err := exec.LookPath(program)
	if err != nil {
		return nil //nolint:nilerr // then nobody here filters by it
	}
	run := func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, path, append([]string{"-w", "5"}, args...)...).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, bytes.TrimSpace(out))
		}
		return string(out), nil
	}
	chain, err := run("-S", "FORWARD")
	if err != nil {
		return err
	}
	for _, dir := range []string{"-o", "-i"} {
		rule := []string{"FORWARD", dir, r.pods + "+", "-j", "ACCEPT"}
		have := strings.Contains(chain, "-A "+strings.Join(rule, " ")+"\n")
		switch {
		case open && !have && strings.Contains(chain, "-P FORWARD DROP\n"):
			_, err = run(append([]string{"-I"}, rule...)...)
		case !open && have:
			_, err = run(append([]string{"-D"}, rule...)...)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
