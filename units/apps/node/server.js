// Serves on the socket that was passed as descriptor 3 (by hand: on $PORT), and drains on SIGTERM.
'use strict';
const http = require('http');

const generation = Number(process.env.AETERNA_GENERATION || 0);
let draining = false;

const server = http.createServer((request, response) => {
  const headers = { 'Content-Type': 'application/json' };
  if (draining) headers.Connection = 'close';
  response.writeHead(200, headers);
  response.end(JSON.stringify({ pid: process.pid, generation }) + '\n');
});

process.on('SIGTERM', () => {
  draining = true;
  server.close();
  server.closeIdleConnections();
});

server.listen(process.env.LISTEN_FDS ? { fd: 3 } : Number(process.env.PORT || 8084));
