// Bun's WebSocket server: all readers subscribe to one topic, and each POST is sent to all of them.
// It ends when its standard input closes, and prints one line of JSON when it is ready.

const compress = process.argv[2] === "compress";

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  async fetch(request, server) {
    const { pathname } = new URL(request.url);
    if (pathname === "/stream" && server.upgrade(request)) return;
    if (pathname === "/publish" && request.method === "POST") {
      server.publish("all", await request.text(), compress);
      return new Response(null, { status: 204 });
    }
    return new Response(null, { status: 404 });
  },
  websocket: {
    perMessageDeflate: compress,
    idleTimeout: 0,
    open(socket) {
      socket.subscribe("all");
    },
    message() {},
  },
});

process.stdin.on("end", () => process.exit()).resume();
console.log(JSON.stringify({ port: server.port, version: Bun.version }));
