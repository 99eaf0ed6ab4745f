// Prints the state that it gets, and gives the same when it is asked.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	aeterna "example.invalid/aeterna/sdk/go"
)

func show(word string, frames []aeterna.Frame) {
	line := word
	for _, f := range frames {
		line += fmt.Sprintf(" %02x:%x:%d", f.Kind, f.Payload, len(f.FDs))
	}
	fmt.Println(line)
}

func main() {
	state := aeterna.NewState()
	frames := state.Load(func(frames []aeterna.Frame) error {
		switch string(frames[0].Payload) {
		case "refuse me":
			return errors.New("not this one")
		case "choke on me":
			panic("not this one")
		}
		return nil
	})
	show("loaded", frames)
	aeterna.Ready()
	aeterna.Status("loaded")
	state.Keep(aeterna.Keeper{
		Save: func() []aeterna.Frame {
			if len(frames) > 0 && string(frames[0].Payload) == "lose me" {
				panic("not this one")
			}
			return frames
		},
		Resume: func(f []aeterna.Frame) { show("resumed", f) },
		Commit: func() { fmt.Println("committed"); os.Exit(0) },
	})
	io.Copy(io.Discard, os.Stdin)
}
