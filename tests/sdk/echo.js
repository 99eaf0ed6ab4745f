// Prints the state that it gets, and gives the same when it is asked.
'use strict';
const aeterna = require(process.argv[2]);

function show(word, frames) {
  const hex = (n) => n.toString(16).padStart(2, '0');
  console.log([word, ...frames.map((f) => `${hex(f.kind)}:${f.payload.toString('hex')}:0`)].join(' '));
}

async function main() {
  const state = new aeterna.State();
  const frames = await state.load((given) => {
    const text = given[0].payload.toString();
    if (text === 'refuse me') throw new Error('not this one');
    if (text === 'choke on me') return Promise.reject();
  });
  show('loaded', frames);
  aeterna.ready();
  aeterna.status('loaded');
  state.keep({
    save: async () => {
      if (frames.length && frames[0].payload.toString() === 'lose me') throw new Error('not this one');
      return frames;
    },
    resume: (given) => show('resumed', given || []),
    commit: () => { console.log('committed'); process.exit(0); },
  });
  process.stdin.resume();
  process.stdin.on('end', () => process.exit(0));
}

main();
