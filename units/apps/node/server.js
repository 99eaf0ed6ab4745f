// Serves on the socket that was passed as descriptor 3 (by hand: on $PORT), and drains on SIGTERM.
'use strict';
const http = require('http');

const generation = Number(process.env.AETERNA_GENERATION || 0);
let draining = false;

const server = http.createServer((request, response) => {
  const body = JSON.stringify({ pid: process.pid, generation }) + '\n';
  const headers = { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) };
  if (draining) headers.Connection = 'close';
  response.writeHead(200, headers);
  response.end(body);
});

process.on('SIGTERM', () => {
  draining = true;
  server.close();
  server.closeIdleConnections();
});

server.listen(process.env.LISTEN_FDS ? { fd: 3 } : Number(process.env.PORT || 8084));
