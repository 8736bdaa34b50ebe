// Reads an event stream (WHATWG HTML, 9.2.6) piece by piece. The gateway sends neither `event` nor a `retry` that
// matters here, so only data counts.

const LENGTH_MAX = 16 * 1024 * 1024;

/** Returns a function that takes the next piece of text and calls `onData` with the data of each event. */
export function sseParser(onData: (data: string) => void): (piece: string) => void {
  let rest = ''; // of a line whose end has not come
  let data: string | null = null;
  let length = 0;
  let isAfterCr = false;

  const line = (text: string) => {
    if (text === '') {
      const whole = data;
      data = null;
      length = 0;
      if (whole !== null) onData(whole);
    } else if (text.startsWith('data') && (text.length === 4 || text[4] === ':')) {
      const value = text.slice(text[5] === ' ' ? 6 : 5);
      data = data === null ? value : `${data}\n${value}`;
    }
  };

  return (piece) => {
    if (piece === '') return;
    const lines = piece.slice(isAfterCr && piece[0] === '\n' ? 1 : 0).split(/\r\n?|\n/);
    isAfterCr = piece.endsWith('\r');
    length += piece.length;
    if (length > LENGTH_MAX) throw new Error('an event of the stream is too long');
    lines[0] = rest + lines[0];
    rest = lines.pop()!;
    lines.forEach(line);
  };
}
