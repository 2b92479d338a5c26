package store

import (
	"context"
	"errors"
	"net/http"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// etcdCode is the gRPC code and text of an error of etcd, from a connection or
// from this process.
func etcdCode(err error) (codes.Code, string) {
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return e.Code(), e.Error()
	}
	if s, ok := status.FromError(err); ok {
		return s.Code(), s.Message()
	}
	return codes.Unknown, err.Error()
}

func isNoSpace(err error) bool {
	if err == nil {
		return false
	}
	_, text := etcdCode(err)
	return text == rpctypes.ErrorDesc(rpctypes.ErrGRPCNoSpace)
}

// asStatus makes a status error of what went wrong with etcd or the wait for
// it. The outcome of a write that ends so is unknown.
func asStatus(err error, verb string) error {
	var already apierrors.APIStatus
	if errors.As(err, &already) {
		return err
	}
	code, text := etcdCode(err)
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, errClosed):
		return apierrors.NewServiceUnavailable("the store is closed")
	case isNoSpace(err):
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status:  metav1.StatusFailure,
			Code:    http.StatusInsufficientStorage,
			Reason:  metav1.StatusReasonInternalError,
			Message: "the data store is full: " + text + "; space is being made, deleting objects helps",
		}}
	case text == rpctypes.ErrorDesc(rpctypes.ErrGRPCRequestTooLarge):
		return apierrors.NewRequestEntityTooLargeError(text)
	case errors.Is(err, context.DeadlineExceeded), code == codes.DeadlineExceeded:
		return apierrors.NewTimeoutError("the data store did not answer in time ("+verb+"): "+text, 1)
	case code == codes.Unavailable:
		return apierrors.NewServiceUnavailable("the data store is not available (" + verb + "): " + text)
	}
	return apierrors.NewInternalError(err)
}
