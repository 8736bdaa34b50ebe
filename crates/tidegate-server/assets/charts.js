// The two canvases: latency as a line of water, events per second as bars. Colours come from the style.

function surface(id) {
  const canvas = document.getElementById(id);
  const { width, height } = canvas.getBoundingClientRect();
  const ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  const ink = canvas.getContext('2d');
  ink.setTransform(ratio, 0, 0, ratio, 0, 0);
  ink.clearRect(0, 0, width, height);
  const style = getComputedStyle(canvas);
  return { ink, width, height, colour: (name) => style.getPropertyValue(name).trim() };
}

/** The last latencies in milliseconds, oldest first. */
export function drawLatency(values) {
  const { ink, width, height, colour } = surface('latency');
  drawGround(ink, width, height, colour);
  if (values.length < 2) return;
  const top = Math.max(4, ...values) * 1.15;
  const x = (i) => ((i + 100 - values.length) / 99) * width;
  const y = (v) => height - 1.5 - (v / top) * (height - 4);
  ink.beginPath();
  values.forEach((v, i) => ink.lineTo(x(i), y(v)));
  ink.strokeStyle = colour('--tide');
  ink.lineWidth = 1.6;
  ink.lineJoin = 'round';
  ink.stroke();
  ink.lineTo(width, height);
  ink.lineTo(x(0), height);
  const water = ink.createLinearGradient(0, 0, 0, height);
  water.addColorStop(0, colour('--water-top'));
  water.addColorStop(1, colour('--water-deep'));
  ink.fillStyle = water;
  ink.fill();
}

function drawGround(ink, width, height, colour) {
  ink.fillStyle = colour('--rule');
  ink.fillRect(0, height - 1, width, 1);
}

/** Events of each second, newest last; `marks` says which seconds had a gap or a hole, or no connection. */
export function drawActivity(perSecond, marks) {
  const { ink, width, height, colour } = surface('activity');
  drawGround(ink, width, height, colour);
  const step = width / perSecond.length;
  const top = Math.max(4, ...perSecond);
  perSecond.forEach((count, i) => {
    const left = i * step;
    if (marks[i]) {
      ink.fillStyle = colour(marks[i] === 'gap' ? '--gap-soft' : '--away');
      ink.fillRect(left, 0, step + 0.5, height);
    }
    ink.fillStyle = colour('--tide');
    // Square root scale: a replay of hundreds must not flatten the three per second around it.
    const tall = Math.sqrt(count / top) * (height - 3);
    ink.fillRect(left + step * 0.15, height - tall, step * 0.7, tall);
    if (marks[i] === 'gap' || marks[i] === 'hole') {
      ink.fillStyle = colour(marks[i] === 'gap' ? '--gap' : '--warn');
      ink.fillRect(left, 0, Math.max(2, step * 0.5), height);
    }
  });
}
