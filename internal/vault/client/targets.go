package client

import (
	"context"
	"net/http"

	"rebound/internal/dr"
	"rebound/internal/vault/rest"
)

// Mappings lists the network mappings.
func (c *Client) Mappings(ctx context.Context) ([]rest.NetworkMapping, error) {
	return list[rest.NetworkMapping](ctx, c, "/mappings", nil)
}

// Mapping reads a network mapping.
func (c *Client) Mapping(ctx context.Context, id dr.MappingID) (rest.NetworkMapping, error) {
	return get[rest.NetworkMapping](ctx, c, "/mappings/"+seg(id), nil)
}

// PutMapping makes or replaces a network mapping.
func (c *Client) PutMapping(ctx context.Context, m rest.NetworkMapping) (rest.NetworkMapping, error) {
	var out rest.NetworkMapping
	_, err := c.do(ctx, http.MethodPut, "/mappings/"+seg(m.ID), nil, m, &out)
	return out, err
}

// DeleteMapping removes a network mapping.
func (c *Client) DeleteMapping(ctx context.Context, id dr.MappingID) error {
	_, err := c.do(ctx, http.MethodDelete, "/mappings/"+seg(id), nil, nil, nil)
	return err
}

// ItemSettings reads a machine's target settings.
func (c *Client) ItemSettings(ctx context.Context, id dr.ItemID) (rest.ItemSettings, error) {
	return get[rest.ItemSettings](ctx, c, "/items/"+seg(id)+"/settings", nil)
}

// PutItemSettings replaces a machine's target settings.
func (c *Client) PutItemSettings(ctx context.Context, s rest.ItemSettings) (rest.ItemSettings, error) {
	var out rest.ItemSettings
	id := s.Item
	s.Item = ""
	_, err := c.do(ctx, http.MethodPut, "/items/"+seg(id)+"/settings", nil, s, &out)
	return out, err
}

// UpdateSite changes a site's description.
func (c *Client) UpdateSite(ctx context.Context, id dr.SiteID, change rest.SiteChange) (rest.Site, error) {
	var out rest.Site
	_, err := c.do(ctx, http.MethodPut, "/sites/"+seg(id), nil, change, &out)
	return out, err
}

// UpdateGroup gives a group another policy.
func (c *Client) UpdateGroup(ctx context.Context, id dr.GroupID, change rest.GroupChange) (rest.Group, error) {
	var out rest.Group
	_, err := c.do(ctx, http.MethodPut, "/groups/"+seg(id), nil, change, &out)
	return out, err
}

// ValidateSite tries what a site promises, on scratch machines; it takes a while.
func (c *Client) ValidateSite(ctx context.Context, id dr.SiteID) (rest.SiteValidation, error) {
	return post[rest.SiteValidation](ctx, c, "/sites/"+seg(id)+"/validate", nil)
}
