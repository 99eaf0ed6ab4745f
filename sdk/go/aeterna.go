// Package aeterna is Aeterna for services in Go (1.19 or later, standard library only).
//
//	state := aeterna.NewState()
//	listener, err := state.Listener("http", "127.0.0.1:8080") // accepts nothing while the state changes hands
//	state.Load(func(frames []aeterna.Frame) error { return json.Unmarshal(frames[0].Payload, &count) })
//	state.Keep(aeterna.Keeper{Save: func() []aeterna.Frame { return []aeterna.Frame{aeterna.JSON(count)} }})
//	aeterna.Ready()
//	...
//	err := state.Request(func() { count++ }) // around what changes the state; then answer
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

// Version is this package's.
const Version = "0.1.0"

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

// Generation is 1 for the first launch, one more for each; 0 without aeternad.
func Generation() int {
	number, _ := strconv.Atoi(os.Getenv("AETERNA_GENERATION"))
	return number
}

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

// Keeper has the state while the service runs. Save: a newer generation is about to take over; give the state. The
// gate is closed; what does not go through it must change nothing any more. If it panics, nothing is handed over.
// Resume: the handover was given up; serve on, with these frames if there are any; the gate opens afterwards.
// Without it, what Load was given takes the frames. Commit: the state is the newer generation's for good; do not
// store it when you stop. They are called on a goroutine of their own; Resume and Commit may be nil.
type Keeper struct {
	Save   func() []Frame
	Resume func([]Frame)
	Commit func()
}

// ErrHandedOver says that the state is being handed over, or is a newer generation's: what was asked for was not
// done, or is not known to be in what was handed over. Do not tell the client that it was done.
var ErrHandedOver = errors.New("a newer generation has the state")

// A phase of the gate in front of the state.
type phase int

const (
	open    phase = iota
	closing       // accepts nothing more
	closed        // no request begins
	gone          // for good
)

// grace is for connections that say nothing.
const grace = 500 * time.Millisecond

// A gate knows what is in hand: connections until their first answer or their end, and requests.
type gate struct {
	mutex                      sync.Mutex
	changed                    chan struct{} // closed at a change
	phase                      phase
	patience                   time.Duration
	fresh, accepting, requests int
	saves, replaced            int
	listeners                  []*gatedListener
}

// wait returns when is holds, at the time, or when stop is closed; with the mutex. Whether is holds.
func (g *gate) wait(until <-chan time.Time, stop <-chan struct{}, is func() bool) bool {
	for !is() {
		changed := g.changed
		g.mutex.Unlock()
		select {
		case <-changed:
			g.mutex.Lock()
		case <-until:
			g.mutex.Lock()
			return is()
		case <-stop:
			g.mutex.Lock()
			return is()
		}
	}
	return true
}

// notice tells of a change; with the mutex.
func (g *gate) notice() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// set changes the phase; with the mutex.
func (g *gate) set(to phase) {
	if (g.phase == open) != (to == open) {
		deadline := time.Time{}
		if to != open {
			deadline = time.Unix(1, 0) // whoever is in Accept comes back at once
		}
		for _, listener := range g.listeners {
			listener.Listener.(interface{ SetDeadline(time.Time) error }).SetDeadline(deadline)
		}
	}
	g.phase = to
	g.notice()
}

// close accepts nothing more, lets what is in hand end and no other request begin. False: aeternad has said
// something before that.
func (g *gate) close(c *channel) bool {
	spoken, stop := c.spoken()
	defer stop()
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.set(closing)
	least := grace
	if g.patience < least {
		least = g.patience
	}
	short, long := time.NewTimer(least), time.NewTimer(g.patience)
	defer short.Stop()
	defer long.Stop()
	g.wait(short.C, spoken, func() bool { return g.fresh == 0 && g.accepting == 0 })
	g.set(closed)
	ended := g.wait(long.C, spoken, func() bool { return g.requests == 0 })
	select {
	case <-spoken:
		return false
	default:
	}
	g.saves++
	if !ended {
		logf("not ended within %v: requests, %d; what they do is not handed over", g.patience, g.requests)
	}
	return true
}

func (g *gate) open(replaced bool) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if replaced {
		g.replaced = g.saves
	}
	g.set(open)
}

type gatedListener struct {
	net.Listener
	gate   *gate
	closed bool
}

// Accept waits while the state changes hands.
func (l *gatedListener) Accept() (net.Conn, error) {
	g := l.gate
	g.mutex.Lock()
	defer g.mutex.Unlock()
	for {
		g.wait(nil, nil, func() bool { return g.phase == open || l.closed })
		if l.closed {
			return nil, net.ErrClosed
		}
		g.accepting++
		g.mutex.Unlock()
		connection, err := l.Listener.Accept()
		g.mutex.Lock()
		g.accepting--
		if err == nil {
			g.fresh++
			g.notice()
			return &gatedConn{Conn: connection, gate: g}, nil
		}
		g.notice()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
	}
}

func (l *gatedListener) Close() error {
	l.gate.mutex.Lock()
	l.closed = true
	l.gate.notice()
	l.gate.mutex.Unlock()
	return l.Listener.Close()
}

type gatedConn struct {
	net.Conn
	gate  *gate
	fresh sync.Once
}

func (c *gatedConn) answers() {
	c.fresh.Do(func() {
		c.gate.mutex.Lock()
		defer c.gate.mutex.Unlock()
		c.gate.fresh--
		c.gate.notice()
	})
}

func (c *gatedConn) Write(bytes []byte) (int, error) {
	defer c.answers()
	return c.Conn.Write(bytes)
}

// ReadFrom leaves sendfile(2) to the connection inside.
func (c *gatedConn) ReadFrom(from io.Reader) (int64, error) {
	defer c.answers()
	return io.Copy(c.Conn, from)
}

func (c *gatedConn) Close() error {
	c.answers()
	return c.Conn.Close()
}

// NetConn is the connection inside, such as a *net.TCPConn.
func (c *gatedConn) NetConn() net.Conn { return c.Conn }

// State is this generation's connection to aeternad's SRP socket, and the gate in front of the state.
//
// When a newer generation asks for the state, the listeners that came from Listener accept nothing more, and what is
// in hand may end, for Patience at most. Then it is saved.
type State struct {
	// Patience is for requests: 3 s, less than Timeout of [State], which is 5 s. To be changed before Keep.
	Patience time.Duration

	path    string
	channel *channel
	gate    gate
	apply   func([]Frame) error

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
func NewState() *State {
	return &State{
		Patience: 3 * time.Second,
		path:     os.Getenv("AETERNA_STATE_SOCK"),
		gate:     gate{changed: make(chan struct{}), patience: 3 * time.Second},
	}
}

// Listener is as the function of that name, but with a gate: it gives no connection from the time when the state is
// asked for until the handover is given up. The connections that it gives are in hand until their first answer;
// NetConn() is what is inside.
func (s *State) Listener(which, fallback string) (net.Listener, error) {
	listener, err := Listener(which, fallback)
	if err != nil {
		return nil, err
	}
	s.gate.mutex.Lock()
	defer s.gate.mutex.Unlock()
	gated := &gatedListener{Listener: listener, gate: &s.gate}
	s.gate.listeners = append(s.gate.listeners, gated)
	return gated, nil
}

// Request does what changes the state. The answer to the client belongs behind it. While the state changes hands it
// waits, and after Patience it returns ErrHandedOver without having done it; it also does if the state was handed
// over before the end of it. Not nested.
func (s *State) Request(work func()) error {
	g := &s.gate
	limit := time.NewTimer(s.Patience)
	defer limit.Stop()
	g.mutex.Lock()
	g.wait(limit.C, nil, func() bool { return g.phase != closed })
	if g.phase > closing {
		g.mutex.Unlock()
		return ErrHandedOver
	}
	g.requests++
	began := g.saves
	g.mutex.Unlock()
	defer func() {
		if panicked := recover(); panicked != nil {
			g.end(began)
			panic(panicked)
		}
	}()
	work()
	if !g.end(began) {
		return ErrHandedOver
	}
	return nil
}

// end tells whether what was done is in the state that is gone on with.
func (g *gate) end(began int) bool {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.requests--
	g.notice()
	if g.saves == began {
		return true
	}
	limit := time.NewTimer(g.patience)
	defer limit.Stop()
	g.wait(limit.C, nil, func() bool { return g.phase != closed })
	return g.phase <= closing && g.replaced <= began
}

// IsClosing tells whether the state was asked for: a server may then ask its clients to connect again.
func (s *State) IsClosing() bool {
	s.gate.mutex.Lock()
	defer s.gate.mutex.Unlock()
	return s.gate.phase != open
}

// Load takes the older generation's state over; it blocks until it is there. apply may be nil; it may refuse
// the frames, and is not called if there are none: the state is acknowledged only if it does not. If the state
// cannot be had, there are no frames and the log says why. apply also gets what comes back from a newer generation
// that is rolled back, if the Keeper has no Resume: so it replaces what there is.
func (s *State) Load(apply func([]Frame) error) []Frame {
	s.apply = apply
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
	if keeper.Resume == nil {
		keeper.Resume = func(frames []Frame) {
			if len(frames) == 0 || s.apply == nil {
				return
			}
			if err := s.apply(frames); err != nil {
				logf("what came back was refused: %v", err)
			}
		}
	}
	s.gate.patience = s.Patience
	if s.path != "" {
		go s.serve(keeper)
	}
}

// back goes on with the state: the service's own, or these frames.
func (s *State) back(keeper Keeper, frames []Frame) {
	if err := guarded(func() error { keeper.Resume(frames); return nil }); err != nil {
		logf("the service could not resume: %v", err)
	}
	s.gate.open(len(frames) > 0)
	s.set(mine)
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
			s.back(keeper, nil)
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
	unanswered := false
	for {
		frame, err := c.read()
		if err != nil {
			return err
		}
		if frame.Kind == hello && !unanswered {
			continue
		}
		switch frame.Kind {
		case request, hello:
			s.set(asked)
			if unanswered = !s.gate.close(c); unanswered {
				continue // RESUME is there already, or nobody any more
			}
			var frames []Frame
			problem := guarded(func() error { frames = keeper.Save(); return nil })
			if problem != nil { // RESUME will follow
				logf("the state cannot be saved: %v", problem)
				c.complain("save_failed", problem.Error())
			} else {
				err = c.give(frames)
			}
		case resume:
			unanswered = false
			frames, problem := c.receive()
			if problem == nil {
				err = c.write(finished, nil, nil)
			} else {
				logf("nothing was given back: %v", problem)
				closeAll(frames)
				frames = nil
			}
			s.back(keeper, frames)
		case commit:
			s.gate.mutex.Lock()
			s.gate.set(gone)
			s.gate.mutex.Unlock()
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
type channel struct {
	*net.UnixConn
	early *Frame // has been read already
}

func greet(path, role string) (*channel, error) {
	connection, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	c := &channel{UnixConn: connection}
	payload, _ := json.Marshal(map[string]string{"role": role})
	answer := Frame{}
	if err = c.write(hello, payload, nil); err == nil {
		answer, err = c.read()
	}
	var said struct{ Role string }
	isOther := answer.Kind == hello && (json.Unmarshal(answer.Payload, &said) != nil || said.Role != "coordinator")
	if err == nil && (answer.Kind == failure || isOther) {
		err = fmt.Errorf("HELLO was answered by type %#02x: %s", answer.Kind, answer.Payload)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	c.early = &answer // aeternad's HELLO comes later if it has taken the role for granted meanwhile
	return c, nil
}

// spoken returns a channel that is closed when there is something to read, or the connection is over; and what ends
// the waiting for it.
func (c *channel) spoken() (<-chan struct{}, func()) {
	spoken, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		is := false
		raw, err := c.SyscallConn()
		if err == nil {
			raw.Read(func(fd uintptr) bool {
				_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
				is = err != syscall.EAGAIN && err != syscall.EINTR
				return is
			})
		}
		if is {
			close(spoken)
		}
	}()
	return spoken, func() {
		c.SetReadDeadline(time.Unix(1, 0))
		<-over
		c.SetReadDeadline(time.Time{})
	}
}

func isState(kind byte) bool { return kind >= StateJSON && kind <= StateFD }

// read returns the next frame. It reads no byte of the one after it, whose descriptors would come along.
func (c *channel) read() (Frame, error) {
	if early := c.early; early != nil {
		c.early = nil
		return *early, nil
	}
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
		case frame.Kind == hello:
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
