// A Gin application: the router is served on the sockets that were passed instead of with router.Run.
package main

import (
	"context"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/coreos/go-systemd/activation"
	"github.com/coreos/go-systemd/daemon"
	"github.com/gin-gonic/gin"
)

func main() {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)

	generation, _ := strconv.Atoi(os.Getenv("AETERNA_GENERATION"))
	router := gin.New()
	answer := func(c *gin.Context) {
		c.JSON(http.StatusOK, gin.H{"pid": os.Getpid(), "generation": generation})
	}
	router.GET("/", answer)
	router.GET("/health", answer)

	listeners, err := activation.Listeners()
	if err != nil || len(listeners) == 0 {
		log.Fatalf("no socket was passed (LISTEN_FDS): %v", err)
	}
	server := &http.Server{Handler: router}
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
