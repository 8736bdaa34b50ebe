// Socket.IO: all readers are in the default namespace, and each POST is sent to all of them.
// It ends when its standard input closes, and prints one line of JSON when it is ready.

import { createRequire } from "node:module";
import { createServer } from "node:http";
import { join } from "node:path";

// The caller passes the directory of the package, because this script may be anywhere.
const require = createRequire(join(process.argv[2], "package.json"));
const { Server } = require("socket.io");
const compress = process.argv[3] === "compress";

const http = createServer((request, response) => {
  if (request.method !== "POST" || request.url !== "/publish") return response.writeHead(404).end();
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    io.compress(compress).emit("event", JSON.parse(Buffer.concat(chunks)));
    response.writeHead(204).end();
  });
});
const io = new Server(http, {
  transports: ["websocket"],
  perMessageDeflate: compress ? { threshold: 0 } : false,
  pingInterval: 25_000,
});

process.stdin.on("end", () => process.exit()).resume();
http.listen(0, "127.0.0.1", () => {
  const { version } = require("socket.io/package.json");
  console.log(JSON.stringify({ port: http.address().port, version: `${version}, Node ${process.versions.node}` }));
});
