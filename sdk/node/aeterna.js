// Aeterna for services in Node.js (16 or later, no dependencies).
//
//   const aeterna = require('./aeterna.js');
//   let count = 0;
//   const state = new aeterna.State();
//   await state.load((frames) => { count = JSON.parse(frames[0].payload).count; });
//   state.keep({ save: () => [aeterna.json({ count })] });
//   http.createServer(handler).listen(aeterna.listener('http', { port: 8080 }), () => aeterna.ready());
//
// Everything works without aeternad too: sockets are then bound here, notices go nowhere, and there is no state.
// A state that cannot be loaded is no state and a line on standard error that begins with "[Aeterna-SDK]".
// The protocol is described in aeterna-srp(7).
//
// Node has neither datagram Unix sockets nor descriptors over sockets. Notices go through a helper process
// (perl or python3), so the unit needs `NotifyAccess = "all"`, and connections cannot be passed on.
'use strict';

const child = require('child_process');
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
  started.on('error', () => {
    if (!others.length) return log('notices cannot be sent: neither perl nor python3 is there');
    helper = startHelper(others);
    waiting.forEach((text) => helper.write(text));
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
  helper = helper || startHelper([['perl', '-e', PERL], ['python3', '-c', PYTHON]]);
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

/** This generation's connection to aeternad's SRP socket. */
class State {
  constructor(path = process.env.AETERNA_STATE_SOCK) {
    this.path = path;
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

  set(standing) {
    this.standing = standing;
    this.waiting.splice(0).forEach((resolve) => resolve());
  }

  /** Takes the older generation's state over: a promise of its frames, which never fails. `apply(frames)` may
   *  refuse them by throwing; the state is acknowledged only if it does not. */
  async load(apply) {
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

  /** Gives the state to whoever asks for it. `save()` returns frames (or a promise of them): a newer generation
   *  is about to take over, accept nothing more; if it throws, nothing is handed over. `resume(frames)`: the
   *  handover was given up, serve on, with these frames if they are not null. `commit()`: the state is the newer generation's for good, do not
   *  store it when the stop signal comes. */
  keep({ save, resume = () => {}, commit = () => {} }) {
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
        try {
          await resume(null);
        } catch (failed) {
          log(`the service could not resume: ${reason(failed)}`);
        }
        this.set('mine');
      }
      if (this.standing === 'theirs' || (why && why.replaced)) return;
      if (!quiet) log(`the connection to aeternad is over, connecting again: ${reason(why)}`);
      quiet = true;
      // aeternad may be about to be started again, or somebody may end every connection at once.
      const pause = channel && Date.now() - began > 1000 ? 100 : 1000;
      await new Promise((resolve) => setTimeout(resolve, pause).unref());
    }
  }

  /** Answers aeternad until the connection ends: throws then. */
  async answer(channel, save, resume, commit) {
    for (;;) {
      const { kind, payload } = await channel.read();
      if (kind === REQUEST) {
        this.set('asked');
        let frames;
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
        let frames = null;
        try {
          frames = await channel.receive();
          channel.write(FINISHED);
        } catch (error) {
          log(`nothing was given back: ${reason(error)}`);
        }
        await resume(frames && frames.length ? frames : null);
        this.set('mine');
      } else if (kind === COMMIT) {
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
  const { kind, payload } = await channel.read();
  if (kind !== HELLO || JSON.parse(payload).role !== 'coordinator') {
    channel.end();
    throw new Error(`HELLO was answered by type ${kind}: ${payload}`);
  }
  return channel;
}

/** Frames over a connection. */
class Channel {
  constructor(path) {
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

module.exports = {
  STATE_JSON, STATE_PROTOBUF, STATE_BYTES, STATE_FD,
  State, bytes, generation, isManaged, json, listener, listeners, notify, ready, reloading, status, stopping,
};
