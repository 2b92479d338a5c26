package apiserver_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/proa-dev/proa/apiserver/apiservertest"
)

func TestManual(t *testing.T) {
	s := apiservertest.Start(t, nil)
	fmt.Println(s.URL)
	os.WriteFile("/tmp/apiserver.url", []byte(s.URL), 0o644)
	<-make(chan int)
}
