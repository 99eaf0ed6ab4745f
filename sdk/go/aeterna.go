// Package aeterna is Aeterna for services in Go (1.19 or later, standard library only).
//
//	listener, err := aeterna.Listener("http", "127.0.0.1:8080")
//	state := aeterna.NewState()
//	frames := state.Load(func(frames []aeterna.Frame) error { return json.Unmarshal(frames[0].Payload, &count) })
//	state.Keep(aeterna.Keeper{Save: func() []aeterna.Frame { return []aeterna.Frame{aeterna.JSON(count)} }})
//	aeterna.Ready()
//
// Everything works without aeternad too: sockets are then bound here, notices go nowhere, and there is no
// state. A state that cannot be loaded is no state and a line on standard error that begins with
// "[Aeterna-SDK]". The protocol is described in aeterna-srp(7).
package aeterna

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// The kinds of state.
const (
	StateJSON     = 0x02
	StateProtobuf = 0x03
	StateBytes    = 0x04
	StateFD       = 0x05
)

const (
	hello, request, resume, commit, failure, finished = 0x01, 0x10, 0x11, 0x12, 0xFE, 0xFF

	magic      = 0xAE7E2024
	maxControl = 64 * 1024
	maxFDs     = 253
)

func logf(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, "[Aeterna-SDK] "+format+"\n", arguments...)
}

// IsManaged tells whether aeternad has started this program.
func IsManaged() bool { return os.Getenv("AETERNA_MANAGED") == "1" }

// Files are what was inherited, in order: the unit's sockets, then stored descriptors. Name() is the
// FileDescriptorName. To be called once.
func Files() []*os.File {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil
	}
	count, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	var files []*os.File
	for i := 0; i < count; i++ {
		syscall.CloseOnExec(3 + i)
		name := ""
		if i < len(names) {
			name = names[i]
		}
		files = append(files, os.NewFile(uintptr(3+i), name))
	}
	return files
}

var inherited []*os.File

// Listener is the socket of that name, or at that place ("0", "1"…), in the unit; without aeternad one that
// is bound to fallback: "HOST:PORT" or the path of a Unix socket.
func Listener(which, fallback string) (net.Listener, error) {
	if inherited == nil {
		inherited = Files()
	}
	for i, file := range inherited {
		if which == file.Name() || which == strconv.Itoa(i) {
			return net.FileListener(file)
		}
	}
	if inherited != nil || IsManaged() {
		return nil, fmt.Errorf("no socket %q in the unit", which)
	}
	if strings.Contains(fallback, "/") {
		return net.Listen("unix", fallback)
	}
	return net.Listen("tcp", fallback)
}

// Notify sends sd_notify(3) lines to the supervisor and tells whether there is one.
func Notify(message string) (bool, error) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return false, nil
	}
	connection, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return false, err
	}
	defer connection.Close()
	_, err = connection.Write([]byte(message))
	return err == nil, err
}

// Ready says that the service serves.
func Ready() (bool, error) { return Notify("READY=1") }

// Stopping says that the service is about to end.
func Stopping() (bool, error) { return Notify("STOPPING=1") }

// Reloading says that the service rereads its configuration by itself; Ready ends that.
func Reloading() (bool, error) {
	var now syscall.Timespec
	// 1 is CLOCK_MONOTONIC.
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&now)), 0)
	return Notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
}

// Status is one line for `aeternactl status`.
func Status(text string) (bool, error) {
	return Notify("STATUS=" + strings.ReplaceAll(text, "\n", " "))
}

// Frame is a piece of state. FDs belong to a StateFD frame, whose payload is JSON about them.
type Frame struct {
	Kind    byte
	Payload []byte
	FDs     []int
}

// JSON makes a frame of a value.
func JSON(value any) Frame {
	payload, err := json.Marshal(value)
	if err != nil {
		logf("a value cannot be handed over: %v", err)
	}
	return Frame{Kind: StateJSON, Payload: payload}
}

// Bytes makes a frame that only the service understands.
func Bytes(payload []byte) Frame { return Frame{Kind: StateBytes, Payload: payload} }

// FDs makes a frame of descriptors and a value that says what they are, such as
// map[string]string{"kind": "connection", "name": "alice"}. They stay open here.
func FDs(about any, fds ...int) Frame {
	frame := JSON(about)
	frame.Kind, frame.FDs = StateFD, fds
	return frame
}

// Connection turns an adopted descriptor into a net.Conn, which then owns a duplicate; fd is closed.
func Connection(fd int) (net.Conn, error) {
	file := os.NewFile(uintptr(fd), "adopted")
	defer file.Close()
	return net.FileConn(file)
}

// Keeper has the state while the service runs. Save: a newer generation is about to take over; accept nothing
// more, change nothing, give the state; if it panics, nothing is handed over. Resume: the handover was given up; serve on, with these frames if
// there are any. Commit: the state is the newer generation's for good; do not store it when you stop. They
// are called on a goroutine of their own; Resume and Commit may be nil.
type Keeper struct {
	Save   func() []Frame
	Resume func([]Frame)
	Commit func()
}

// State is this generation's connection to aeternad's SRP socket.
type State struct {
	path    string
	channel *channel

	mutex    sync.Mutex
	standing int
	waiting  []chan struct{}
}

const (
	mine = iota
	asked
	theirs
)

// HandedOver tells whether the state is a newer generation's for good: to be asked when the stop signal has
// come, before anything is stored or said to clients. aeternad's word on it precedes the signal on another
// way, so this waits, if the state was asked for, until that has been read.
func (s *State) HandedOver() bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for s.standing == asked {
		changed := make(chan struct{})
		s.waiting = append(s.waiting, changed)
		s.mutex.Unlock()
		<-changed
		s.mutex.Lock()
	}
	return s.standing == theirs
}

func (s *State) set(standing int) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.standing = standing
	for _, changed := range s.waiting {
		close(changed)
	}
	s.waiting = nil
}

// NewState uses the socket that AETERNA_STATE_SOCK names; without one there is no state.
func NewState() *State { return &State{path: os.Getenv("AETERNA_STATE_SOCK")} }

// Load takes the older generation's state over; it blocks until it is there. apply may be nil; it may refuse
// the frames, and is not called if there are none: the state is acknowledged only if it does not. If the state
// cannot be had, there are no frames and the log says why.
func (s *State) Load(apply func([]Frame) error) []Frame {
	if s.path == "" {
		return nil
	}
	frames, err := s.load(apply)
	if err != nil {
		logf("no state was taken over, beginning with none: %v", err)
		closeAll(frames)
		return nil
	}
	return frames
}

func (s *State) load(apply func([]Frame) error) ([]Frame, error) {
	c, err := greet(s.path, "sink")
	if err != nil {
		return nil, err
	}
	frames, err := c.receive()
	if err == nil && len(frames) > 0 && apply != nil {
		if err = guarded(func() error { return apply(frames) }); err != nil {
			c.complain("load_failed", err.Error())
		}
	}
	if err == nil {
		err = c.write(finished, nil, nil)
	}
	if err != nil {
		c.Close()
		return frames, err
	}
	s.channel = c
	return frames, nil
}

// guarded makes an error of a panic: a state that cannot be had is no reason to die.
func guarded(work func() error) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("%v", panicked)
		}
	}()
	return work()
}

// Keep gives the state to whoever asks for it, on a goroutine of its own.
func (s *State) Keep(keeper Keeper) {
	if s.path != "" {
		go s.serve(keeper)
	}
}

func (s *State) serve(keeper Keeper) {
	for quiet := false; ; { // one line for each time that aeternad is away
		c, err, began := s.channel, error(nil), time.Now()
		s.channel = nil
		if c == nil {
			c, err = greet(s.path, "source")
		}
		pause := time.Second // somebody may end every connection at once
		if err == nil {
			if quiet {
				logf("connected to aeternad again")
			}
			quiet = false
			err = s.answer(c, keeper)
			if time.Since(began) > time.Second {
				pause = 100 * time.Millisecond
			}
		}
		if c != nil {
			c.Close() // whoever waits for the state learns that it does not come
		}
		if s.standing == asked {
			if keeper.Resume != nil {
				keeper.Resume(nil)
			}
			s.set(mine)
		}
		if s.standing == theirs || err == errReplaced {
			return
		}
		if !quiet {
			logf("the connection to aeternad is over, connecting again: %v", err)
		}
		quiet = true
		time.Sleep(pause)
	}
}

// errReplaced: a newer connection of this generation has its place.
var errReplaced = errors.New("a newer connection has its place")

// answer answers aeternad until the connection ends.
func (s *State) answer(c *channel, keeper Keeper) error {
	for {
		frame, err := c.read()
		if err != nil {
			return err
		}
		switch frame.Kind {
		case request:
			s.set(asked)
			var frames []Frame
			problem := guarded(func() error { frames = keeper.Save(); return nil })
			if problem != nil { // RESUME will follow
				logf("the state cannot be saved: %v", problem)
				c.complain("save_failed", problem.Error())
			} else {
				err = c.give(frames)
			}
		case resume:
			frames, problem := c.receive()
			if problem == nil {
				err = c.write(finished, nil, nil)
			} else {
				logf("nothing was given back: %v", problem)
				closeAll(frames)
				frames = nil
			}
			if keeper.Resume != nil {
				keeper.Resume(frames)
			}
			s.set(mine)
		case commit:
			if keeper.Commit != nil {
				keeper.Commit()
			}
			s.set(theirs)
		case finished: // the acknowledgement; COMMIT or RESUME will follow
		case failure:
			var complaint struct{ Code interface{} }
			if json.Unmarshal(frame.Payload, &complaint) == nil && complaint.Code == "replaced" {
				return errReplaced
			}
			logf("aeternad reports %s", frame.Payload)
		default:
			err = fmt.Errorf("a frame of type %#02x does not belong here", frame.Kind)
		}
		if err != nil {
			return err
		}
	}
}

func closeAll(frames []Frame) {
	for _, frame := range frames {
		for _, fd := range frame.FDs {
			syscall.Close(fd)
		}
	}
}

// channel is frames over a connection.
type channel struct{ *net.UnixConn }

func greet(path, role string) (*channel, error) {
	connection, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	c := &channel{connection}
	payload, _ := json.Marshal(map[string]string{"role": role})
	answer := Frame{}
	if err = c.write(hello, payload, nil); err == nil {
		answer, err = c.read()
	}
	var said struct{ Role string }
	if err == nil && (answer.Kind != hello || json.Unmarshal(answer.Payload, &said) != nil || said.Role != "coordinator") {
		err = fmt.Errorf("HELLO was answered by type %#02x: %s", answer.Kind, answer.Payload)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func isState(kind byte) bool { return kind >= StateJSON && kind <= StateFD }

// read returns the next frame. It reads no byte of the one after it, whose descriptors would come along.
func (c *channel) read() (Frame, error) {
	frame := Frame{}
	header, err := c.exactly(12, &frame.FDs)
	if err != nil {
		return frame, err
	}
	length, kind := binary.BigEndian.Uint32(header), header[9]
	code, what := "", ""
	switch {
	case binary.BigEndian.Uint32(header[4:]) != magic:
		code, what = "bad_magic", fmt.Sprintf("magic %#08x", header[4:8])
	case header[8] != 1:
		code, what = "bad_version", fmt.Sprintf("version %d", header[8])
	case length < 8:
		code, what = "bad_length", fmt.Sprintf("length %d", length)
	case !isState(kind) && !strings.ContainsRune("\x01\x10\x11\x12\u00fe\u00ff", rune(kind)):
		code, what = "bad_type", fmt.Sprintf("type %#02x", kind)
	case header[10] != 0 || header[11] != 0:
		code, what = "bad_reserved", "reserved bits"
	case !isState(kind) && length-8 > maxControl:
		code, what = "too_long", fmt.Sprintf("a control frame of %d bytes", length)
	}
	if code != "" {
		c.complain(code, what)
		closeAll([]Frame{frame})
		return Frame{}, errors.New("this is no SRP: " + what)
	}
	frame.Kind = kind
	frame.Payload, err = c.exactly(int(length-8), &frame.FDs)
	if err != nil {
		closeAll([]Frame{frame})
	}
	return frame, err
}

// exactly returns so many bytes; memory grows with what has come, not with what was announced.
func (c *channel) exactly(count int, fds *[]int) ([]byte, error) {
	var data []byte
	buffer := make([]byte, min(count, 1<<16))
	control := make([]byte, syscall.CmsgSpace(maxFDs*4))
	for len(data) < count {
		n, m, flags, _, err := c.ReadMsgUnix(buffer[:min(count-len(data), len(buffer))], control)
		messages, _ := syscall.ParseSocketControlMessage(control[:m])
		for i := range messages {
			if rights, err := syscall.ParseUnixRights(&messages[i]); err == nil {
				*fds = append(*fds, rights...)
			}
		}
		if err != nil {
			return nil, err
		}
		if flags&syscall.MSG_CTRUNC != 0 {
			return nil, errors.New("descriptors were lost: this process can have no more (LimitNOFILE)")
		}
		if n == 0 {
			return nil, io.ErrUnexpectedEOF
		}
		data = append(data, buffer[:n]...)
	}
	return data, nil
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

// write sends one frame; the descriptors go with its first byte.
func (c *channel) write(kind byte, payload []byte, fds []int) error {
	header := make([]byte, 12)
	binary.BigEndian.PutUint32(header, uint32(8+len(payload)))
	binary.BigEndian.PutUint32(header[4:], magic)
	header[8], header[9] = 1, kind
	var control []byte
	if len(fds) > 0 {
		control = syscall.UnixRights(fds...)
	}
	n, _, err := c.WriteMsgUnix(header, control, nil)
	if err == nil && n < len(header) {
		_, err = c.Write(header[n:])
	}
	if err == nil && len(payload) > 0 {
		_, err = c.Write(payload)
	}
	return err
}

func (c *channel) complain(code, message string) {
	payload, _ := json.Marshal(map[string]string{"code": code, "message": message})
	c.write(failure, payload, nil)
}

// receive returns frames up to FINISHED.
func (c *channel) receive() ([]Frame, error) {
	var frames []Frame
	for {
		frame, err := c.read()
		switch {
		case err != nil:
			return frames, err
		case isState(frame.Kind):
			frames = append(frames, frame)
		case frame.Kind == finished:
			return frames, nil
		case frame.Kind == failure:
			return frames, fmt.Errorf("aeternad reports %s", frame.Payload)
		default:
			return frames, fmt.Errorf("a frame of type %#02x among the state", frame.Kind)
		}
	}
}

// give sends state and FINISHED.
func (c *channel) give(frames []Frame) error {
	total := 0
	for _, frame := range frames {
		total += len(frame.Payload)
		if err := c.write(frame.Kind, frame.Payload, frame.FDs); err != nil {
			return err
		}
	}
	return c.write(finished, []byte(fmt.Sprintf(`{"frames":%d,"bytes":%d}`, len(frames), total)), nil)
}
