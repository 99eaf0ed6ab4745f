// A Go server that is handed its sockets, says that it is ready, and drains on SIGTERM.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/activation"
	"github.com/coreos/go-systemd/daemon"
)

func main() {
	// Before READY=1: a stop may follow it at once.
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)

	listeners, err := activation.Listeners()
	if err != nil || len(listeners) == 0 {
		log.Fatalf("no socket was passed (LISTEN_FDS): %v", err)
	}
	generation := os.Getenv("AETERNA_GENERATION")
	if generation == "" {
		generation = "0"
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, "{\"pid\":%d,\"generation\":%s}\n", os.Getpid(), generation)
	})}
	for _, listener := range listeners {
		listener := listener
		go func() {
			if err := server.Serve(listener); err != http.ErrServerClosed {
				log.Fatal(err)
			}
		}()
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Print(err)
	}
	<-term
	if err := server.Shutdown(context.Background()); err != nil {
		log.Fatal(err)
	}
}
