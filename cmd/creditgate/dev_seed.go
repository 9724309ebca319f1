package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist"
)

// devProduct is a policy that the run serves.
type devProduct struct{ *policy.Policy }

// devAccount is a demo account. Its key is fixed, so that a curl line works tomorrow.
type devAccount struct {
	name, key string
	grants    []devGrant
}

type devGrant struct {
	bucket  string
	credits int
}

func devAccounts() []devAccount {
	return []devAccount{
		{name: "demo-plus", key: "sk-demo-plus", grants: []devGrant{{"promo", 5}, {"monthly", 10}, {"purchased", 50}}},
		{name: "demo-empty", key: "sk-demo-empty"},
	}
}

// seed makes the demo accounts of the first product, through the control plane as anybody would. References make it
// idempotent: on kept data it changes nothing.
func (d *dev) seed(ctx context.Context) error {
	product := d.products[0]
	for _, a := range devAccounts() {
		if err := d.admin(ctx, http.MethodPut, "/v1/accounts/"+a.name, map[string]any{"product": product.Name}); err != nil {
			return err
		}
		for _, g := range a.grants {
			bucket := g.bucket
			if !slices.Contains(product.Buckets, bucket) { // another policy has other buckets
				bucket = product.Buckets[len(product.Buckets)-1]
			}
			err := d.admin(ctx, http.MethodPost, "/v1/accounts/"+a.name+"/grants", map[string]any{
				"bucket": bucket, "credits": g.credits, "external_ref": "dev-" + a.name + "-" + g.bucket, "reason": "demo",
			})
			if err != nil {
				return err
			}
		}
	}
	return d.seedKeys(ctx)
}

// seedKeys stores the fixed keys. The control plane makes only random ones, and rightly.
func (d *dev) seedKeys(ctx context.Context) error {
	store, err := persist.Open(ctx, d.postgres.writerURL(), defaultConfig().Layout, nil)
	if err != nil {
		return err
	}
	defer store.Close()
	for _, a := range devAccounts() {
		_, err := store.CreateKey(ctx, persist.NewKey{
			Account: a.name, KeyID: meter.NewID(time.Now()).String(), Hash: sha256.Sum256([]byte(a.key)),
			Ref: "dev-" + a.key, Actor: "creditgate dev",
		})
		if err != nil {
			return fmt.Errorf("key of %s: %w", a.name, err)
		}
	}
	return nil
}

// adminAnswerMax bounds what is read of an answer.
const adminAnswerMax = 64 << 10

// admin sends one change to the control plane.
func (d *dev) admin(ctx context.Context, method, path string, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, d.adminURL()+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+d.dir.token)
	req.Header.Set("X-Actor", "creditgate dev")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("seed demo accounts: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, adminAnswerMax))
	if err != nil {
		return fmt.Errorf("seed demo accounts: %w", err)
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("seed demo accounts: %s %s answers %s: %s", method, path, resp.Status, answer)
	}
	return nil
}
