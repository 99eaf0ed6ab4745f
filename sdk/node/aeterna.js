// Aeterna for services in Node.js (16 or later, no dependencies).
//
//   const aeterna = require('aeterna-sdk');
//   let count = 0;
//   const state = new aeterna.State();
//   await state.load((frames) => { count = JSON.parse(frames[0].payload).count; });
//   state.keep({ save: () => [aeterna.json({ count })] });
//   await state.listen(server, 'http', { port: 8080 });     // accepts nothing while the state changes hands
//   aeterna.ready();
//   ...
//   await state.request(() => { count += 1; });             // around what changes the state; then answer
//
// Everything works without aeternad too: sockets are then bound here, notices go nowhere, and there is no state.
// A state that cannot be loaded is no state and a line on standard error that begins with "[Aeterna-SDK]".
// The protocol is described in aeterna-srp(7).
//
// Node has neither datagram Unix sockets nor descriptors over sockets. Notices go through a helper process
// (aeternactl, perl or python3), so the unit needs `NotifyAccess = "all"`, and connections cannot be
// passed on. Nor can Node stop accepting without closing the socket: from REQUEST to RESUME or COMMIT another Node
// process holds it, and nothing else.
'use strict';

const child = require('child_process');
const cluster = require('cluster');
const fs = require('fs');
const net = require('net');

const STATE_JSON = 0x02, STATE_PROTOBUF = 0x03, STATE_BYTES = 0x04, STATE_FD = 0x05;
const HELLO = 0x01, REQUEST = 0x10, RESUME = 0x11, COMMIT = 0x12, ERROR = 0xfe, FINISHED = 0xff;
const STATES = [STATE_JSON, STATE_PROTOBUF, STATE_BYTES, STATE_FD];
const CONTROLS = [HELLO, REQUEST, RESUME, COMMIT, ERROR, FINISHED];
const MAGIC = 0xae7e2024;
const MAX_CONTROL = 64 * 1024;

function log(text) {
  try {
    fs.writeSync(2, `[Aeterna-SDK] ${text}\n`);
  } catch (nobodyReadsIt) { /* the service goes on */ }
}

const reason = (error) => String((error && error.message) || error);

/** Whether aeternad has started this program. */
const isManaged = () => process.env.AETERNA_MANAGED === '1';

/** 1 for the first launch, one more for each; 0 without aeternad. */
const generation = () => Number(process.env.AETERNA_GENERATION || 0);

/** The inherited sockets in the order of the unit: [{ name, fd }]. */
function listeners() {
  if (process.env.LISTEN_PID !== String(process.pid)) return [];
  const names = (process.env.LISTEN_FDNAMES || '').split(':');
  return Array.from({ length: Number(process.env.LISTEN_FDS) }, (_, i) => ({ name: names[i] || '', fd: 3 + i }));
}

/** What server.listen() takes: the socket of that name or (a number) at that place; else `fallback`. */
function listener(which, fallback) {
  const inherited = listeners();
  const found = inherited.find(({ name }, index) => which === index || which === name);
  if (found) return { fd: found.fd };
  if (inherited.length || isManaged()) throw new Error(`no socket ${which} in the unit`);
  return fallback;
}

// Notices: sd_notify(3)

const PERL =
  'use Socket; my $p = $ENV{NOTIFY_SOCKET}; $p =~ s/^@/\\0/; socket(my $s, AF_UNIX, SOCK_DGRAM, 0) or die;' +
  ' $/ = "\\0"; while (<STDIN>) { chomp; send($s, $_, 0, pack_sockaddr_un($p)); }';
const PYTHON =
  'import os,socket,sys\np=os.environ["NOTIFY_SOCKET"]\np="\\0"+p[1:] if p[0]=="@" else p\n' +
  's=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\nb=b""\n' +
  'while True:\n d=os.read(0,4096)\n if not d: break\n b+=d\n' +
  ' while b"\\0" in b:\n  m,b=b.split(b"\\0",1)\n  s.sendto(m,p)\n';

let helper = null;

function startHelper(commands) {
  const [[program, ...rest], ...others] = commands;
  const started = child.spawn(program, rest, { stdio: ['pipe', 'inherit', 'inherit'] });
  const waiting = [];
  const mine = { write: (text) => { waiting.push(text); started.stdin.write(text); } };
  const next = () => {
    if (!others.length) return log('notices cannot be sent: there is no aeternactl, perl or python3');
    helper = startHelper(others);
    waiting.forEach((text) => helper.write(text));
  };
  started.on('error', next);
  started.on('exit', (code) => {
    // 2: an aeternactl that is older than this and knows no such command.
    if (code === 2) next();
    else helper = null;
  });
  started.stdin.on('error', () => {});
  // The helper ends with this process and does not keep it alive.
  started.unref();
  if (started.stdin.unref) started.stdin.unref();
  return mine;
}

/** KEY=value lines to the supervisor; whether there is one. */
function notify(message) {
  if (!process.env.NOTIFY_SOCKET) return false;
  helper = helper || startHelper([['aeternactl', 'notify', '-'], ['perl', '-e', PERL], ['python3', '-c', PYTHON]]);
  helper.write(message + '\0');
  return true;
}

const ready = () => notify('READY=1');
const stopping = () => notify('STOPPING=1');
const status = (text) => notify('STATUS=' + text.replace(/\n/g, ' '));
const reloading = () => notify(`RELOADING=1\nMONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`);

// State: a frame is { kind, payload: Buffer }

const json = (value) => ({ kind: STATE_JSON, payload: Buffer.from(JSON.stringify(value)) });
const bytes = (payload) => ({ kind: STATE_BYTES, payload: Buffer.from(payload) });

// The gate

/** The state is being handed over, or is a newer generation's: what was asked for was not done, or is not known to be in
 *  what was handed over. Do not tell the client that it was done. */
class HandedOver extends Error {
  constructor() {
    super('a newer generation has the state');
    this.name = 'HandedOver';
  }
}

const GRACE = 500; // ms for connections that say nothing

/** Knows what is in hand: connections until their first answer or their end, and requests. Its phase is 'open';
 *  'closing': accepts nothing more; 'closed': no request begins; 'gone': for good. */
class Gate {
  constructor(patience) {
    Object.assign(this, { patience, phase: 'open', fresh: 0, requests: 0, saves: 0, replaced: 0 });
    this.waiting = new Set();
    this.servers = [];
    this.holder = null;
  }

  notice() {
    const waiting = [...this.waiting];
    this.waiting.clear();
    waiting.forEach((wake) => wake());
  }

  set(phase) {
    this.phase = phase;
    this.notice();
  }

  /** Waits until `is()`, for `ms` at most: whether it is. `spoken.is` ends the waiting too. */
  async wait(ms, is, spoken = {}) {
    let over = false;
    const timer = setTimeout(() => { over = true; this.notice(); }, Math.max(ms, 0));
    while (!is() && !over && !spoken.is) await new Promise((resolve) => this.waiting.add(resolve));
    clearTimeout(timer);
    return is();
  }

  add(server) {
    const began = new WeakSet();
    this.servers.push(server);
    server.on('connection', (socket) => {
      if (began.has(socket)) return;
      began.add(socket);
      this.fresh += 1;
      let fresh = true;
      const answers = () => {
        if (fresh) this.fresh -= 1;
        fresh = false;
        this.notice();
      };
      const write = socket.write;
      socket.write = function (...what) {
        socket.write = write;
        const isTaken = write.apply(socket, what);
        answers();
        return isTaken;
      };
      socket.once('close', answers);
    });
  }

  /** Accepts nothing more, lets what is in hand end and no other request begin. False: aeternad has said something
   *  before that. */
  async close(channel) {
    const spoken = { is: false };
    const until = Date.now() + this.patience;
    const hear = channel.spoken(() => { spoken.is = true; this.notice(); });
    try {
      await this.hold();
      this.set('closing');
      await this.wait(Math.min(GRACE, this.patience), () => this.fresh === 0, spoken);
      this.set('closed');
      const ended = await this.wait(until - Date.now(), () => this.requests === 0, spoken);
      if (spoken.is) return false;
      this.saves += 1;
      if (!ended) log(`not ended in time: requests, ${this.requests}; what they do is not handed over`);
      return true;
    } finally {
      hear();
    }
  }

  async open(replaced) {
    if (replaced) this.replaced = this.saves;
    await this.giveBack();
    this.set('open');
  }

  gone() {
    this.set('gone');
    if (this.holder) this.holder.process.disconnect();
    this.holder = null;
  }

  /** Gives the listening sockets to another process, and closes them here. */
  async hold() {
    const servers = this.servers.filter((server) => server.listening);
    if (!servers.length || this.holder) return;
    const process = child.fork(__filename, ['--aeterna-hold'], { execArgv: [] });
    const ended = new Promise((_, reject) => {
      process.once('error', reject);
      process.once('exit', () => reject(new Error('the process that holds the sockets has ended')));
    });
    ended.catch(() => {});
    const next = () => Promise.race([ended, new Promise((resolve) => process.once('message', (_, handle) => resolve(handle)))]);
    try {
      for (const server of servers) {
        const answer = next();
        process.send('hold', server._handle);
        await answer;
      }
    } catch (error) {
      process.kill('SIGKILL');
      return log(`this process goes on accepting: ${reason(error)}`);
    }
    this.holder = { process, servers, next };
    for (const server of servers) {
      const name = {};
      if (server._handle.getsockname) server._handle.getsockname(name);
      server._handle.close();
      // A server that is closed by its owner meanwhile stays closed.
      server._handle = {
        fd: -1, ref() {}, unref() {}, getAsyncId: () => -1,
        getsockname: (to) => { Object.assign(to, name); return 0; },
        close: (done) => { this.servers = this.servers.filter((other) => other !== server); if (done) process.nextTick(done); },
      };
    }
  }

  async giveBack() {
    const holder = this.holder;
    this.holder = null;
    if (!holder) return;
    try {
      for (const server of holder.servers) {
        const answer = holder.next();
        holder.process.send('give');
        const handle = await answer;
        if (!this.servers.includes(server)) {
          handle.close();
          continue;
        }
        server._handle = null;
        await new Promise((resolve, reject) => {
          server.once('error', reject);
          server.listen(handle, () => { server.off('error', reject); resolve(); });
        });
      }
      holder.process.disconnect();
    } catch (error) {
      log(`the sockets do not come back: ${reason(error)}`);
      throw error;
    }
  }

  async request(work) {
    await this.wait(this.patience, () => this.phase !== 'closed');
    if (this.phase !== 'open' && this.phase !== 'closing') throw new HandedOver();
    const began = this.saves;
    let result;
    this.requests += 1;
    try {
      result = await work();
    } finally {
      this.requests -= 1;
      this.notice();
    }
    if (this.saves !== began) {
      await this.wait(this.patience, () => this.phase !== 'closed');
      if ((this.phase !== 'open' && this.phase !== 'closing') || this.replaced > began) throw new HandedOver();
    }
    return result;
  }
}

/** What the other process does. */
function hold() {
  const kept = [];
  // It ends with its parent, whatever signals a stop sends to both.
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => {});
  process.on('message', (word, handle) => {
    if (word === 'hold') kept.push(handle);
    process.send(word, word === 'give' ? kept.shift() : undefined);
  });
  process.on('disconnect', () => process.exit(0));
}

/** This generation's connection to aeternad's SRP socket, and the gate in front of the state.
 *
 *  When a newer generation asks for the state, the servers that listen() was given accept nothing more, and what is in
 *  hand may end, for `patience` ms at most; below `Timeout` of `[State]`, which is 5 s. Then it is saved. */
class State {
  constructor(path = process.env.AETERNA_STATE_SOCK, { patience = 3000 } = {}) {
    this.path = path;
    this.gate = new Gate(patience);
    this.apply = null;
    this.channel = null;
    this.standing = 'mine'; // 'asked' from REQUEST on, then 'mine' again or 'theirs'
    this.waiting = [];
  }

  /** Whether the state is a newer generation's for good: to be asked when the stop signal has come, before
   *  anything is stored or said to clients. aeternad's word on it precedes the signal on another way, so this
   *  waits, if the state was asked for, until that has been read. */
  async handedOver() {
    while (this.standing === 'asked') await new Promise((resolve) => this.waiting.push(resolve));
    return this.standing === 'theirs';
  }

  /** server.listen() on the socket of that name or (a number) at that place, else on `fallback`, with a gate: the server
   *  gets no connection from the time when the state is asked for until the handover is given up. */
  async listen(server, which, fallback) {
    if (cluster.isWorker) throw new Error('the primary process of a cluster has the state, not a worker');
    this.gate.add(server);
    await new Promise((resolve, reject) => {
      server.once('error', reject);
      server.listen(listener(which, fallback), () => { server.off('error', reject); resolve(); });
    });
  }

  /** Does what changes the state: a promise of what `work` returns. The answer to the client belongs behind it. While the
   *  state changes hands it waits, and after `patience` it fails with HandedOver without having done it; it also does
   *  if the state was handed over before the end of it. Not nested. */
  request(work) {
    return this.gate.request(work);
  }

  /** Whether the state was asked for: a server may then ask its clients to connect again. */
  isClosing() {
    return this.gate.phase !== 'open';
  }

  set(standing) {
    this.standing = standing;
    this.waiting.splice(0).forEach((resolve) => resolve());
  }

  /** Takes the older generation's state over: a promise of its frames, which never fails. `apply(frames)` may
   *  refuse them by throwing; the state is acknowledged only if it does not. It also gets what comes back from a newer
   *  generation that is rolled back, if keep() is given no `resume`: so it replaces what there is. */
  async load(apply) {
    this.apply = apply;
    if (!this.path) return [];
    let channel;
    try {
      channel = await greet(this.path, 'sink');
      const frames = await channel.receive();
      if (frames.length && apply) {
        try {
          await apply(frames);
        } catch (error) {
          channel.complain('load_failed', reason(error).slice(0, 1000));
          throw error;
        }
      }
      channel.write(FINISHED);
      this.channel = channel;
      return frames;
    } catch (error) {
      log(`no state was taken over, beginning with none: ${reason(error)}`);
      if (channel) channel.end();
      return [];
    }
  }

  /** Gives the state to whoever asks for it. `save()` returns frames (or a promise of them): a newer generation is about
   *  to take over. The gate is closed; what does not go through it must change nothing any more. If it throws, nothing is
   *  handed over. `resume(frames)`: the handover was given up, serve on, with these frames if they are not null; the gate
   *  opens afterwards. `commit()`: the state is the newer generation's for good, do not store it when the stop signal
   *  comes. */
  keep({ save, resume = (frames) => frames && this.apply && this.apply(frames), commit = () => {} }) {
    if (this.path) this.serve(save, resume, commit);
  }

  async serve(save, resume, commit) {
    let quiet = false; // one line for each time that aeternad is away
    for (;;) {
      let channel = this.channel, why;
      const began = Date.now();
      this.channel = null;
      try {
        channel = channel || (await greet(this.path, 'source'));
        channel.socket.unref();
        if (quiet) log('connected to aeternad again');
        quiet = false;
        await this.answer(channel, save, resume, commit);
      } catch (error) {
        why = error;
      }
      // Whoever waits for the state learns that it does not come.
      if (channel) channel.end();
      if (this.standing === 'asked') {
        await this.back(resume, null);
      }
      if (this.standing === 'theirs' || (why && why.replaced)) return;
      if (!quiet) log(`the connection to aeternad is over, connecting again: ${reason(why)}`);
      quiet = true;
      // aeternad may be about to be started again, or somebody may end every connection at once.
      const pause = channel && Date.now() - began > 1000 ? 100 : 1000;
      await new Promise((resolve) => setTimeout(resolve, pause).unref());
    }
  }

  /** Goes on with the state: the service's own, or these frames. */
  async back(resume, frames) {
    try {
      await resume(frames);
    } catch (failed) {
      log(`the service could not resume: ${reason(failed)}`);
    }
    await this.gate.open(frames !== null);
    this.set('mine');
  }

  /** Answers aeternad until the connection ends: throws then. */
  async answer(channel, save, resume, commit) {
    let unanswered = false;
    for (;;) {
      const { kind, payload } = await channel.read();
      if (kind === HELLO && !unanswered) continue;
      if (kind === REQUEST || kind === HELLO) {
        this.set('asked');
        let frames;
        // RESUME may be there already, or nobody any more.
        unanswered = !(await this.gate.close(channel));
        if (unanswered) continue;
        try {
          frames = [...(await save())];
        } catch (error) {
          // RESUME will follow.
          log(`the state cannot be saved: ${reason(error)}`);
          channel.complain('save_failed', reason(error).slice(0, 1000));
          continue;
        }
        await channel.give(frames);
      } else if (kind === RESUME) {
        unanswered = false;
        let frames = null;
        try {
          frames = await channel.receive();
          channel.write(FINISHED);
        } catch (error) {
          log(`nothing was given back: ${reason(error)}`);
        }
        await this.back(resume, frames && frames.length ? frames : null);
      } else if (kind === COMMIT) {
        this.gate.gone();
        await commit();
        this.set('theirs');
      } else if (kind === ERROR) {
        if (codeOf(payload) === 'replaced') throw Object.assign(new Error('replaced'), { replaced: true });
        log(`aeternad reports ${payload}`);
      } else if (kind !== FINISHED) {
        // (FINISHED is the acknowledgement; COMMIT or RESUME will follow.)
        throw new Error(`a frame of type ${kind} does not belong here`);
      }
    }
  }
}

function codeOf(payload) {
  try {
    return JSON.parse(payload).code;
  } catch (noJson) {
    return undefined;
  }
}

async function greet(path, role) {
  const channel = new Channel(path);
  channel.write(HELLO, Buffer.from(JSON.stringify({ role })));
  const early = await channel.read();
  const { kind, payload } = early;
  if (kind === ERROR || (kind === HELLO && JSON.parse(payload).role !== 'coordinator')) {
    channel.end();
    throw new Error(`HELLO was answered by type ${kind}: ${payload}`);
  }
  channel.early = early; // aeternad's HELLO comes later if it has taken the role for granted meanwhile
  return channel;
}

/** Frames over a connection. */
class Channel {
  constructor(path) {
    this.early = null; // a frame that has been read already
    this.chunks = [];
    this.length = 0;
    this.wake = null;
    this.error = null;
    this.socket = net.connect({ path });
    const ended = (error) => {
      this.error = this.error || error || new Error('aeternad closed the connection');
      if (this.wake) this.wake();
    };
    this.socket.on('data', (chunk) => {
      this.chunks.push(chunk);
      this.length += chunk.length;
      // What nobody has asked for stays with the sender.
      this.socket.pause();
      if (this.wake) this.wake();
    });
    this.socket.on('end', () => ended());
    this.socket.on('close', () => ended());
    this.socket.on('error', ended);
  }

  end() {
    this.socket.end();
  }

  /** Calls `hear` once there is something to read or the connection is over; returns what ends that. */
  spoken(hear) {
    if (this.length || this.error) hear();
    this.wake = hear;
    this.socket.resume();
    return () => { this.wake = null; };
  }

  /** So many bytes. */
  async exactly(count) {
    while (this.length < count) {
      if (this.error) throw this.error;
      const more = new Promise((resolve) => { this.wake = resolve; });
      this.socket.resume();
      await more;
      this.wake = null;
    }
    const all = this.chunks.length === 1 ? this.chunks[0] : Buffer.concat(this.chunks);
    this.chunks = [all.subarray(count)];
    this.length -= count;
    return all.subarray(0, count);
  }

  async read() {
    if (this.early) {
      const { early } = this;
      this.early = null;
      return early;
    }
    const header = await this.exactly(12);
    const length = header.readUInt32BE(0), kind = header[9];
    let wrong = null;
    if (header.readUInt32BE(4) !== MAGIC) wrong = ['bad_magic', 'another magic'];
    else if (header[8] !== 1) wrong = ['bad_version', `version ${header[8]}`];
    else if (length < 8) wrong = ['bad_length', `length ${length}`];
    else if (![...STATES, ...CONTROLS].includes(kind)) wrong = ['bad_type', `type ${kind}`];
    else if (header.readUInt16BE(10) !== 0) wrong = ['bad_reserved', 'reserved bits'];
    else if (CONTROLS.includes(kind) && length - 8 > MAX_CONTROL) wrong = ['too_long', `a control frame of ${length}`];
    if (wrong) {
      this.complain(...wrong);
      this.end();
      throw new Error(`this is no SRP: ${wrong[1]}`);
    }
    return { kind, payload: await this.exactly(length - 8) };
  }

  /** Whether the socket takes more at once. */
  write(kind, payload = Buffer.alloc(0)) {
    const header = Buffer.alloc(12);
    header.writeUInt32BE(8 + payload.length, 0);
    header.writeUInt32BE(MAGIC, 4);
    header[8] = 1;
    header[9] = kind;
    this.socket.write(header);
    return this.socket.write(payload);
  }

  complain(code, message) {
    this.write(ERROR, Buffer.from(JSON.stringify({ code, message })));
  }

  /** Frames up to FINISHED. */
  async receive() {
    const frames = [];
    for (;;) {
      const frame = await this.read();
      if (frame.kind === HELLO) continue;
      if (STATES.includes(frame.kind)) frames.push(frame);
      else if (frame.kind === FINISHED) return frames;
      else if (frame.kind === ERROR) throw new Error(`aeternad reports ${frame.payload}`);
      else throw new Error(`a frame of type ${frame.kind} among the state`);
    }
  }

  /** State and FINISHED. */
  async give(frames) {
    for (const { kind, payload } of frames) {
      if (!this.write(kind, payload)) await this.drained();
    }
    const total = frames.reduce((sum, { payload }) => sum + payload.length, 0);
    this.write(FINISHED, Buffer.from(JSON.stringify({ frames: frames.length, bytes: total })));
  }

  drained() {
    return new Promise((resolve, reject) => {
      const done = () => {
        this.socket.off('drain', done).off('close', done);
        if (this.error) reject(this.error);
        else resolve();
      };
      this.socket.on('drain', done).on('close', done);
    });
  }
}

if (require.main === module && process.argv[2] === '--aeterna-hold') hold();

module.exports = {
  STATE_JSON, STATE_PROTOBUF, STATE_BYTES, STATE_FD,
  HandedOver, State, bytes, generation, isManaged, json, listener, listeners, notify, ready, reloading, status, stopping,
};
