package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/proa-dev/proa/internal/ociimage"
	"github.com/proa-dev/proa/test/cluster"
)

// image is the busybox that the pods run.
const image = "proa.dev/bench/busybox:1"

func busybox(ctx context.Context) ([]byte, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("%w: install busybox-static", err)
	}
	files, err := ociimage.Busybox(ctx, path)
	if err != nil {
		return nil, err
	}
	var tar bytes.Buffer
	err = ociimage.Build(&tar, ociimage.Spec{Names: []string{image}, Layers: [][]ociimage.File{files}, Cmd: []string{"sleep", "1000000"}})
	return tar.Bytes(), err
}

// benchStart measures a start from nothing, and what an idle node takes.
func benchStart(ctx context.Context, e *cluster.Cluster) ([]figure, error) {
	archive, err := busybox(ctx)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := e.Start(ctx); err != nil {
		return nil, err
	}
	ready := time.Since(begin)
	c, err := e.Client()
	if err != nil {
		return nil, err
	}
	if err := e.Until(ctx, 30*time.Second, func() bool { return nodeReady(ctx, c) }); err != nil {
		return nil, fmt.Errorf("node Ready: %w", err)
	}
	node := time.Since(begin)
	// The image is part of the user's preparation, not of the start.
	paused := time.Now()
	if _, err := e.Proa(ctx, bytes.NewReader(archive), "image", "import", "-"); err != nil {
		return nil, err
	}
	begin = begin.Add(time.Since(paused))
	if err := startPod(ctx, e, c, "first"); err != nil {
		return nil, err
	}
	first := time.Since(begin)

	bare, err := bareProcess(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.CoreV1().Pods("default").Delete(ctx, "first", metav1.DeleteOptions{}); err != nil {
		return nil, err
	}
	// Idle means that the heap has settled: two garbage collections at most
	// come in this time.
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(20 * time.Second):
	}
	rss, private, err := e.Memory()
	if err != nil {
		return nil, err
	}
	yard := fmt.Sprintf("bare process %s", ms(bare))
	line := func(work string, d, limit time.Duration) figure {
		return figure{work, ms(d), yard, ratio(d, bare), "<= " + ms(limit), d <= limit}
	}
	return []figure{
		line("server ready, empty data directory", ready, 500*time.Millisecond),
		line("node Ready, from the same start", node, 2*time.Second),
		line("first pod Ready, from the same start", first, 3*time.Second),
		{"idle memory, resident (private part)", fmt.Sprintf("%d MB (%d MB)", rss>>20, private>>20), "", "", "<= 200 MB", rss <= 200<<20},
	}, nil
}

func nodeReady(ctx context.Context, c *kubernetes.Clientset) bool {
	nodes, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil || len(nodes.Items) == 0 {
		return false
	}
	for _, cond := range nodes.Items[0].Status.Conditions {
		if cond.Type == corev1.NodeReady {
			return cond.Status == corev1.ConditionTrue
		}
	}
	return false
}

func ms(d time.Duration) string { return fmt.Sprintf("%.0f ms", float64(d.Microseconds())/1000) }

func ratio(d, unit time.Duration) string { return fmt.Sprintf("%.1f x", float64(d)/float64(unit)) }
