// One reader of deflate.mjs with the WebSocket of its runtime: Bun's. Prints the negotiated extensions, then
// each message on a line.
// Usage: bun deflate_reader.mjs <url> <subprotocol>...
const [url, ...protocols] = process.argv.slice(2);
const socket = new WebSocket(url, protocols);
socket.onopen = () => console.log(socket.extensions);
socket.onmessage = ({ data }) => console.log(data);
socket.onclose = ({ code, reason }) => { console.error(`closed: ${code} ${reason}`); process.exit(1); };
