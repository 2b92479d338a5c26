package main

import (
	"errors"

	"github.com/proa-dev/proa/internal/lifecycle"
)

type node struct{}

func newNode(*serverConfig, *controlPlane) (*node, error) { return nil, errors.New("later") }

func (n *node) components() []lifecycle.Component { return nil }
