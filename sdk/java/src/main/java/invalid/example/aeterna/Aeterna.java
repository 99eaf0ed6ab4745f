package invalid.example.aeterna;

import java.io.Closeable;
import java.io.EOFException;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.ByteChannel;
import java.nio.channels.Channel;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.Consumer;
import java.util.function.Supplier;

/**
 * Aeterna for services in Java (16 or later, no dependencies).
 *
 * <pre>
 * Aeterna.State state = new Aeterna.State();
 * Aeterna.Listener listener = state.listener("127.0.0.1", 8080);   // the unit: StandardInput = "socket"
 * state.load(given -&gt; counter.set(Long.parseLong(given.get(0).text())));
 * state.keep(() -&gt; List.of(Aeterna.Frame.json(counter.toString())));
 * Aeterna.ready();
 * ...
 * Aeterna.Connection connection = listener.accept();               // nothing while the state changes hands
 * state.request(() -&gt; counter.incrementAndGet());                  // around what changes the state; then answer
 * </pre>
 *
 * Everything works without aeternad too: sockets are then bound here, notices go nowhere, and there is no state.
 * A state that cannot be loaded is no state and a line on standard error that begins with "[Aeterna-SDK]".
 * The protocol is described in aeterna-srp(7).
 *
 * Java has neither datagram Unix sockets nor descriptors by number. So the listener is the one on descriptor 0
 * ({@link System#inheritedChannel}), notices go through a helper process (aeternactl, perl or python3; the unit needs
 * {@code NotifyAccess = "all"}), and connections cannot be passed on.
 */
public final class Aeterna {
    public static final int STATE_JSON = 0x02;
    public static final int STATE_PROTOBUF = 0x03;
    public static final int STATE_BYTES = 0x04;
    public static final int STATE_FD = 0x05;

    private static final int HELLO = 0x01, REQUEST = 0x10, RESUME = 0x11, COMMIT = 0x12;
    private static final int ERROR = 0xFE, FINISHED = 0xFF;
    private static final int MAGIC = 0xAE7E2024;
    private static final int MAX_CONTROL = 64 * 1024;

    /** This package's. */
    public static final String VERSION = "0.1.0";

    private Aeterna() {}

    private static void log(String text) {
        System.err.println("[Aeterna-SDK] " + text);
    }

    /** Whether aeternad has started this program. */
    public static boolean isManaged() {
        return "1".equals(System.getenv("AETERNA_MANAGED"));
    }

    /** 1 for the first launch, one more for each; 0 without aeternad. */
    public static int generation() {
        String text = System.getenv("AETERNA_GENERATION");
        return text == null ? 0 : Integer.parseInt(text);
    }

    /** The listening socket on descriptor 0; without aeternad one that is bound here. */
    public static ServerSocketChannel listener(String host, int port) throws IOException {
        return listener(new InetSocketAddress(host, port));
    }

    /** As {@link #listener(String, int)}, for any address. */
    public static ServerSocketChannel listener(SocketAddress fallback) throws IOException {
        Channel inherited = System.inheritedChannel();
        if (inherited instanceof ServerSocketChannel) {
            return (ServerSocketChannel) inherited;
        }
        if (isManaged()) {
            throw new IOException("descriptor 0 is no listening socket: the unit needs StandardInput = \"socket\"");
        }
        boolean unix = fallback instanceof UnixDomainSocketAddress;
        ServerSocketChannel own = unix
            ? ServerSocketChannel.open(java.net.StandardProtocolFamily.UNIX) : ServerSocketChannel.open();
        return own.bind(fallback);
    }

    // Notices: sd_notify(3)

    private static final String PERL =
        "use Socket; my $p = $ENV{NOTIFY_SOCKET}; $p =~ s/^@/\\0/; socket(my $s, AF_UNIX, SOCK_DGRAM, 0) or die;"
            + " $/ = \"\\0\"; while (<STDIN>) { chomp; send($s, $_, 0, pack_sockaddr_un($p)); }";
    private static final String PYTHON =
        "import os,socket\np=os.environ['NOTIFY_SOCKET']\np='\\0'+p[1:] if p[0]=='@' else p\n"
            + "s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\nb=b''\n"
            + "while True:\n d=os.read(0,4096)\n if not d: break\n b+=d\n"
            + " while b'\\0' in b:\n  m,b=b.split(b'\\0',1)\n  s.sendto(m,p)\n";

    private static OutputStream helper;

    /** KEY=value lines to the supervisor; whether there is one that could be told. */
    public static synchronized boolean notify(String message) {
        if (System.getenv("NOTIFY_SOCKET") == null) {
            return false;
        }
        if (helper == null) {
            helper = startHelper();
        }
        try {
            helper.write((message + "\0").getBytes(StandardCharsets.UTF_8));
            helper.flush();
            return true;
        } catch (IOException error) {
            log("a notice cannot be sent: " + error.getMessage());
            return false;
        }
    }

    private static OutputStream startHelper() {
        String[][] commands = {{"aeternactl", "notify", "-"}, {"perl", "-e", PERL}, {"python3", "-c", PYTHON}};
        for (String[] command : commands) {
            try {
                // Its standard input ends with this process, and so does it.
                return new ProcessBuilder(command)
                    .redirectOutput(ProcessBuilder.Redirect.INHERIT)
                    .redirectError(ProcessBuilder.Redirect.INHERIT)
                    .start().getOutputStream();
            } catch (IOException missing) {
                continue;
            }
        }
        log("notices cannot be sent: there is no aeternactl, perl or python3");
        return OutputStream.nullOutputStream();
    }

    /** The service serves. */
    public static boolean ready() {
        return notify("READY=1");
    }

    /** The service is about to end. */
    public static boolean stopping() {
        return notify("STOPPING=1");
    }

    /** The service rereads its configuration by itself; {@link #ready} ends that. */
    public static boolean reloading() {
        // nanoTime is CLOCK_MONOTONIC on Linux.
        return notify("RELOADING=1\nMONOTONIC_USEC=" + System.nanoTime() / 1000);
    }

    /** One line for {@code aeternactl status}. */
    public static boolean status(String text) {
        return notify("STATUS=" + text.replace('\n', ' '));
    }

    /** A piece of state. */
    public static final class Frame {
        public final int kind;
        public final byte[] payload;

        public Frame(int kind, byte[] payload) {
            this.kind = kind;
            this.payload = payload;
        }

        /** State as JSON text. */
        public static Frame json(String text) {
            return new Frame(STATE_JSON, text.getBytes(StandardCharsets.UTF_8));
        }

        /** State that only the service understands. */
        public static Frame bytes(byte[] payload) {
            return new Frame(STATE_BYTES, payload);
        }

        /** The payload as text. */
        public String text() {
            return new String(payload, StandardCharsets.UTF_8);
        }
    }

    /**
     * The state is being handed over, or is a newer generation's: what was asked for was not done, or is not known to be
     * in what was handed over. Do not tell the client that it was done.
     */
    public static final class HandedOver extends IOException {
        private static final long serialVersionUID = 1;

        HandedOver() {
            super("a newer generation has the state");
        }
    }

    /** What the gate lets through: nothing is accepted from CLOSING on, no request begins from CLOSED on. */
    private enum Phase { OPEN, CLOSING, CLOSED, GONE }

    /** Knows what is in hand: connections until their first answer or their end, and requests. */
    private static final class Gate {
        /** For connections that say nothing. */
        private static final long GRACE_MS = 500;

        private final long patienceMs;
        private Phase phase = Phase.OPEN;
        private long fresh, requests, saves, replaced;
        /** Of the thread that waits for them to end. */
        private Selector ending;

        Gate(long patienceMs) {
            this.patienceMs = patienceMs;
        }

        synchronized void set(Phase now) {
            phase = now;
            notifyAll();
        }

        synchronized boolean isOpen() {
            return phase == Phase.OPEN;
        }

        /** How often the state had been saved by then. */
        synchronized long less(long ofFresh, long ofRequests) {
            fresh -= ofFresh;
            requests -= ofRequests;
            if (ending != null) {
                ending.wakeup();
            }
            return saves;
        }

        private synchronized long left(boolean ofFresh) {
            return ofFresh ? fresh : requests;
        }

        /**
         * Accepts nothing more, lets what is in hand end and no other request begin. False: aeternad has said something
         * before that.
         */
        boolean close(Wire wire) throws IOException {
            long until = System.nanoTime() + patienceMs * 1_000_000;
            long grace = System.nanoTime() + Math.min(GRACE_MS, patienceMs) * 1_000_000;
            wire.channel.configureBlocking(false);
            try (Selector selector = Selector.open()) {
                SelectionKey key = wire.channel.register(selector, SelectionKey.OP_READ);
                synchronized (this) {
                    ending = selector;
                }
                set(Phase.CLOSING);
                boolean silent = await(selector, true, grace);
                if (silent) {
                    set(Phase.CLOSED);
                    silent = await(selector, false, until);
                }
                key.cancel();
                synchronized (this) {
                    ending = null;
                    saves += silent ? 1 : 0;
                    if (silent && requests > 0) {
                        log("not ended within " + patienceMs + " ms: requests, " + requests
                            + "; what they do is not handed over");
                    }
                }
                return silent;
            } finally {
                wire.channel.configureBlocking(true);
            }
        }

        /** False if there is something to read before the time is over. */
        private boolean await(Selector selector, boolean ofFresh, long until) throws IOException {
            while (left(ofFresh) > 0) {
                long ms = (until - System.nanoTime()) / 1_000_000;
                if (ms <= 0) {
                    return true;
                }
                if (selector.select(ms) > 0) {
                    return false;
                }
            }
            return true;
        }

        synchronized void open(boolean isReplaced) {
            if (isReplaced) {
                replaced = saves;
            }
            set(Phase.OPEN);
        }

        /** Waits while no request may begin, for the patience at most. */
        private void decided() throws HandedOver {
            long until = System.nanoTime() + patienceMs * 1_000_000;
            try {
                while (phase == Phase.CLOSED && until - System.nanoTime() > 0) {
                    wait((until - System.nanoTime()) / 1_000_000 + 1);
                }
            } catch (InterruptedException ended) {
                Thread.currentThread().interrupt();
            }
            if (phase == Phase.CLOSED || phase == Phase.GONE) {
                throw new HandedOver();
            }
        }

        synchronized long begin() throws HandedOver {
            decided();
            requests++;
            return saves;
        }

        synchronized void end(long began, long ended) throws HandedOver {
            if (ended != began) {
                decided();
                if (replaced > began) {
                    throw new HandedOver();
                }
            }
        }
    }

    /**
     * A listening socket with a gate: it gives no connection from the time when the state is asked for until the
     * handover is given up. They wait in its queue meanwhile.
     */
    public static final class Listener implements Closeable {
        private final ServerSocketChannel channel;
        private final Selector selector;
        private final Gate gate;

        private Listener(ServerSocketChannel channel, Gate gate) throws IOException {
            this.channel = channel;
            this.gate = gate;
            // Other processes have the same queue: the socket itself never blocks.
            channel.configureBlocking(false);
            selector = Selector.open();
            channel.register(selector, SelectionKey.OP_ACCEPT);
        }

        /** Waits for a connection; any thread. */
        public Connection accept() throws IOException {
            while (true) {
                synchronized (gate) {
                    while (!gate.isOpen()) {
                        try {
                            gate.wait();
                        } catch (InterruptedException ended) {
                            Thread.currentThread().interrupt();
                            throw new java.nio.channels.ClosedByInterruptException();
                        }
                    }
                    SocketChannel accepted = channel.accept();
                    if (accepted != null) {
                        gate.fresh++;
                        return new Connection(accepted, gate);
                    }
                }
                synchronized (selector) {
                    selector.select(key -> { });
                }
            }
        }

        /** The socket itself, not blocking: for its address. Accepting from it passes by the gate. */
        public ServerSocketChannel channel() {
            return channel;
        }

        @Override
        public void close() throws IOException {
            channel.close();
            selector.close();
        }
    }

    /** An accepted connection, blocking: in hand until its first answer or its end. */
    public static final class Connection implements ByteChannel {
        private final SocketChannel channel;
        private final Gate gate;
        private boolean fresh = true;

        private Connection(SocketChannel channel, Gate gate) {
            this.channel = channel;
            this.gate = gate;
        }

        private void answers() {
            synchronized (this) {
                if (!fresh) {
                    return;
                }
                fresh = false;
            }
            gate.less(1, 0);
        }

        @Override
        public int read(ByteBuffer to) throws IOException {
            return channel.read(to);
        }

        @Override
        public int write(ByteBuffer from) throws IOException {
            int count = channel.write(from);
            answers();
            return count;
        }

        @Override
        public boolean isOpen() {
            return channel.isOpen();
        }

        @Override
        public void close() throws IOException {
            channel.close();
            answers();
        }

        /** The socket itself. What is written to it directly is not noticed as an answer. */
        public SocketChannel channel() {
            return channel;
        }
    }

    /** Whose the state is. */
    private enum Standing { MINE, ASKED, THEIRS }

    /**
     * This generation's connection to aeternad's SRP socket, and the gate in front of the state.
     *
     * When a newer generation asks for the state, the listeners that came from {@link #listener} accept nothing more, and
     * what is in hand may end, for the patience at most: 3 s, below {@code Timeout} of {@code [State]}, which is 5 s.
     * Then it is saved.
     */
    public static final class State {
        private final String path;
        private final Gate gate;
        private Consumer<List<Frame>> apply = frames -> { };
        private Wire wire;
        private Standing standing = Standing.MINE;

        /** The socket that AETERNA_STATE_SOCK names; without one there is no state. */
        public State() {
            this(System.getenv("AETERNA_STATE_SOCK"));
        }

        /** A socket by its path. */
        public State(String path) {
            this(path, 3000);
        }

        /** As {@link #State(String)}; requests get so many milliseconds to end when the state is asked for. */
        public State(String path, long patienceMs) {
            this.path = path;
            gate = new Gate(patienceMs);
        }

        /** As {@link Aeterna#listener(String, int)}, but with a gate. */
        public Listener listener(String host, int port) throws IOException {
            return listener(new InetSocketAddress(host, port));
        }

        /** As {@link #listener(String, int)}, for any address. */
        public Listener listener(SocketAddress fallback) throws IOException {
            return new Listener(Aeterna.listener(fallback), gate);
        }

        /**
         * Does what changes the state, and returns its result. The answer to the client belongs behind it. While the
         * state changes hands it waits, and after the patience it throws {@link HandedOver} without having done it; it
         * also does if the state was handed over before the end of it. Not nested.
         */
        public <T> T request(Supplier<T> work) throws HandedOver {
            long began = gate.begin();
            T result;
            long ended = began;
            try {
                result = work.get();
            } finally {
                ended = gate.less(0, 1);
            }
            gate.end(began, ended);
            return result;
        }

        /** Whether the state was asked for: a server may then ask its clients to connect again. */
        public boolean isClosing() {
            return !gate.isOpen();
        }

        /** Takes the older generation's state over; blocks until it is there; never throws. */
        public List<Frame> load() {
            return load(frames -> {});
        }

        /**
         * As {@link #load()}. {@code apply} may refuse the frames by throwing, and is not called if there are none:
         * the state is acknowledged only if it does not. It also gets what comes back from a newer generation that is
         * rolled back, if {@link #keep(Supplier)} is used: so it replaces what there is.
         */
        public List<Frame> load(Consumer<List<Frame>> apply) {
            this.apply = apply;
            if (path == null) {
                return new ArrayList<>();
            }
            Wire fresh = null;
            try {
                fresh = Wire.greet(path, "sink");
                List<Frame> frames = fresh.receive();
                if (!frames.isEmpty()) {
                    try {
                        apply.accept(frames);
                    } catch (Throwable refused) {
                        fresh.complain("load_failed", String.valueOf(refused.getMessage()));
                        throw refused;
                    }
                }
                fresh.write(FINISHED, new byte[0]);
                wire = fresh;
                return frames;
            } catch (Throwable error) {
                // Whatever went wrong, the heap being too small for it included.
                log("no state was taken over, beginning with none: " + error);
                if (fresh != null) {
                    fresh.close();
                }
                return new ArrayList<>();
            }
        }

        /** As {@link #keep(Supplier, Consumer, Runnable)}; what comes back goes to what {@link #load} was given. */
        public void keep(Supplier<List<Frame>> save) {
            keep(save, frames -> {
                if (frames != null) {
                    apply.accept(frames);
                }
            }, () -> { });
        }

        /**
         * Gives the state to whoever asks for it, on a daemon thread. {@code save}: a newer generation is about to take
         * over; give the state. The gate is closed; what does not go through it must change nothing any more. If it
         * throws, nothing is handed over. {@code resume}: the handover was given up; serve on, with these frames if they
         * are not null; the gate opens afterwards. {@code commit}: the state is the newer generation's for good; do not
         * store it when the stop signal comes.
         */
        public void keep(Supplier<List<Frame>> save, Consumer<List<Frame>> resume, Runnable commit) {
            if (path == null) {
                return;
            }
            Thread thread = new Thread(() -> serve(save, resume, commit), "aeterna-state");
            thread.setDaemon(true);
            thread.start();
        }

        /**
         * Whether the state is a newer generation's for good: to be asked when the stop signal has come (in a
         * shutdown hook), before anything is stored or said to clients. aeternad's word on it precedes the signal
         * on another way, so this waits, if the state was asked for, until that has been read.
         */
        public synchronized boolean handedOver() throws InterruptedException {
            while (standing == Standing.ASKED) {
                wait();
            }
            return standing == Standing.THEIRS;
        }

        private synchronized void set(Standing now) {
            standing = now;
            notifyAll();
        }

        private synchronized boolean isAsked() {
            return standing == Standing.ASKED;
        }

        private synchronized boolean isTheirs() {
            return standing == Standing.THEIRS;
        }

        private void serve(Supplier<List<Frame>> save, Consumer<List<Frame>> resume, Runnable commit) {
            boolean quiet = false; // one line for each time that aeternad is away
            while (true) {
                Wire channel = wire;
                wire = null;
                long began = System.nanoTime();
                Exception why;
                try {
                    if (channel == null) {
                        channel = Wire.greet(path, "source");
                    }
                    if (quiet) {
                        log("connected to aeternad again");
                    }
                    quiet = false;
                    why = answer(channel, save, resume, commit);
                } catch (IOException | RuntimeException error) {
                    why = error;
                }
                if (channel != null) {
                    channel.close(); // whoever waits for the state learns that it does not come
                }
                if (isAsked()) {
                    back(resume, null);
                }
                if (why == null || isTheirs()) {
                    return;
                }
                if (!quiet) {
                    log("the connection to aeternad is over, connecting again: " + why);
                }
                quiet = true;
                try {
                    // aeternad may be about to be started again, or somebody may end every connection at once.
                    Thread.sleep(channel != null && System.nanoTime() - began > 1_000_000_000L ? 100 : 1000);
                } catch (InterruptedException ended) {
                    return;
                }
            }
        }

        /** Goes on with the state: the service's own, or these frames. */
        private void back(Consumer<List<Frame>> resume, List<Frame> frames) {
            try {
                resume.accept(frames);
            } catch (RuntimeException error) {
                log("the service could not resume: " + error);
            } finally {
                gate.open(frames != null);
                set(Standing.MINE);
            }
        }

        /** Answers aeternad until the connection ends: throws then. Returns null where a newer one has its place. */
        private Exception answer(
                Wire channel, Supplier<List<Frame>> save, Consumer<List<Frame>> resume, Runnable commit)
                throws IOException {
            boolean unanswered = false;
            while (true) {
                Frame frame = channel.read();
                if (frame.kind == HELLO && !unanswered) {
                    continue;
                }
                switch (frame.kind) {
                    case REQUEST:
                    case HELLO:
                        set(Standing.ASKED);
                        unanswered = !gate.close(channel); // RESUME is there already, or nobody any more
                        if (!unanswered) {
                            give(channel, save);
                        }
                        break;
                    case RESUME:
                        unanswered = false;
                        List<Frame> given = null;
                        try {
                            given = channel.receive();
                            channel.write(FINISHED, new byte[0]);
                        } catch (IOException error) {
                            log("nothing was given back: " + error.getMessage());
                        }
                        back(resume, given == null || given.isEmpty() ? null : given);
                        break;
                    case COMMIT:
                        gate.set(Phase.GONE);
                        commit.run();
                        set(Standing.THEIRS);
                        break;
                    case FINISHED: // the acknowledgement; COMMIT or RESUME will follow
                        break;
                    case ERROR:
                        if (frame.text().matches("(?s).*\"code\"\\s*:\\s*\"replaced\".*")) {
                            return null;
                        }
                        log("aeternad reports " + frame.text());
                        break;
                    default:
                        throw new IOException("a frame of type " + frame.kind + " does not belong here");
                }
            }
        }

        private static void give(Wire channel, Supplier<List<Frame>> save) throws IOException {
            List<Frame> frames;
            try {
                frames = save.get();
            } catch (Throwable failed) { // RESUME will follow
                log("the state cannot be saved: " + failed);
                channel.complain("save_failed", String.valueOf(failed.getMessage()));
                return;
            }
            channel.give(frames);
        }
    }

    /** Frames over a connection, blocking. */
    private static final class Wire {
        private final SocketChannel channel;
        /** Has been read already. */
        private Frame early;

        private Wire(SocketChannel channel) {
            this.channel = channel;
        }

        static Wire greet(String path, String role) throws IOException {
            Wire wire = new Wire(SocketChannel.open(UnixDomainSocketAddress.of(path)));
            wire.write(HELLO, ("{\"role\":\"" + role + "\"}").getBytes(StandardCharsets.UTF_8));
            Frame answer = wire.read();
            if (answer.kind == ERROR || answer.kind == HELLO && !answer.text().contains("coordinator")) {
                wire.close();
                throw new IOException("HELLO was answered by type " + answer.kind + ": " + answer.text());
            }
            wire.early = answer; // aeternad's HELLO comes later if it has taken the role for granted meanwhile
            return wire;
        }

        void close() {
            try {
                channel.close();
            } catch (IOException ignored) {
                // There is nothing left to lose with it.
            }
        }

        private static boolean isState(int kind) {
            return kind >= STATE_JSON && kind <= STATE_FD;
        }

        private static boolean isControl(int kind) {
            return kind == HELLO || kind >= REQUEST && kind <= COMMIT || kind == ERROR || kind == FINISHED;
        }

        Frame read() throws IOException {
            if (early != null) {
                Frame frame = early;
                early = null;
                return frame;
            }
            ByteBuffer header = ByteBuffer.wrap(exactly(12));
            long length = Integer.toUnsignedLong(header.getInt());
            int magic = header.getInt();
            int version = header.get();
            int kind = Byte.toUnsignedInt(header.get());
            int reserved = header.getShort();
            String[] wrong = null;
            if (magic != MAGIC) {
                wrong = new String[] {"bad_magic", "another magic"};
            } else if (version != 1) {
                wrong = new String[] {"bad_version", "version " + version};
            } else if (length < 8) {
                wrong = new String[] {"bad_length", "length " + length};
            } else if (!isState(kind) && !isControl(kind)) {
                wrong = new String[] {"bad_type", "type " + kind};
            } else if (reserved != 0) {
                wrong = new String[] {"bad_reserved", "reserved bits"};
            } else if (isControl(kind) && length - 8 > MAX_CONTROL || length - 8 > Integer.MAX_VALUE - 16) {
                wrong = new String[] {"too_long", "a frame of " + length + " bytes"};
            }
            if (wrong != null) {
                complain(wrong[0], wrong[1]);
                throw new IOException("this is no SRP: " + wrong[1]);
            }
            return new Frame(kind, exactly((int) (length - 8)));
        }

        /** So many bytes; memory grows with what has come, not with what was announced. */
        private byte[] exactly(int count) throws IOException {
            byte[] data = new byte[Math.min(count, 1 << 16)];
            int have = 0;
            while (have < count) {
                if (have == data.length) {
                    data = Arrays.copyOf(data, (int) Math.min(count, 2L * have));
                }
                int got = channel.read(ByteBuffer.wrap(data, have, data.length - have));
                if (got < 0) {
                    throw new EOFException("aeternad closed the connection");
                }
                have += got;
            }
            return data;
        }

        void write(int kind, byte[] payload) throws IOException {
            ByteBuffer header = ByteBuffer.allocate(12);
            header.putInt(8 + payload.length).putInt(MAGIC).put((byte) 1).put((byte) kind).putShort((short) 0);
            header.flip();
            for (ByteBuffer part : new ByteBuffer[] {header, ByteBuffer.wrap(payload)}) {
                while (part.hasRemaining()) {
                    channel.write(part);
                }
            }
        }

        void complain(String code, String message) throws IOException {
            String text = message.replaceAll("[\\\\\"\\p{Cntrl}]", " ");
            write(ERROR, ("{\"code\":\"" + code + "\",\"message\":\"" + text + "\"}").getBytes(StandardCharsets.UTF_8));
        }

        /** Frames up to FINISHED. */
        List<Frame> receive() throws IOException {
            List<Frame> frames = new ArrayList<>();
            while (true) {
                Frame frame = read();
                if (isState(frame.kind)) {
                    frames.add(frame);
                } else if (frame.kind == HELLO) {
                    continue;
                } else if (frame.kind == FINISHED) {
                    return frames;
                } else if (frame.kind == ERROR) {
                    throw new IOException("aeternad reports " + frame.text());
                } else {
                    throw new IOException("a frame of type " + frame.kind + " among the state");
                }
            }
        }

        /** State and FINISHED. */
        void give(List<Frame> frames) throws IOException {
            long total = 0;
            for (Frame frame : frames) {
                write(frame.kind, frame.payload);
                total += frame.payload.length;
            }
            String sums = "{\"frames\":" + frames.size() + ",\"bytes\":" + total + "}";
            write(FINISHED, sums.getBytes(StandardCharsets.UTF_8));
        }
    }
}
