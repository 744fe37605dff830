// Three kinds of pictures: points with intervals, lines over iterations, and bars of shares.

function ticks(most, wanted = 5) {
  const rough = (most || 1) / wanted, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((size) => size >= rough);
  return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, k) => k * step);
}

function frame(width, height, mostX, mostY, names, decimals) {
  const left = 42, right = 14, top = 26, bottom = 40;
  const x = (value) => left + (value / mostX) * (width - left - right);
  const y = (value) => height - bottom - (value / mostY) * (height - top - bottom);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": names.join(" against ") });
  for (const value of ticks(mostY)) {
    svg.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    svg.append(draw("text", { class: "axis", x: left - 6, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(decimals)));
  }
  svg.append(draw("text", { class: "axis", x: 4, y: 10 }, names[0]));
  svg.append(draw("text", { class: "axis", x: width - right, y: height - 4, "text-anchor": "end" }, names[1]));
  return { svg, x, y, bottom: height - bottom };
}

/** Score against tokens. points: {x, y, xs, ys, label, run, hollow}; paths: runs of points to be joined. */
function scatter(points, paths, width) {
  const mostX = 1.08 * Math.max(1, ...points.map((point) => point.xs?.[1] ?? point.x));
  const { svg, x, y, bottom } = frame(width, Math.min(380, 0.75 * width), mostX, 1, ["score", "tokens a dialogue"], 1);
  for (const value of ticks(mostX)) svg.append(draw("text", { class: "axis", x: x(value), y: bottom + 16, "text-anchor": "middle" }, count(value)));
  for (const path of paths) {
    svg.append(draw("g", { class: colour(path[0].run) }, draw("polyline", { points: path.map((point) => `${x(point.x)},${y(point.y)}`).join(" "), "stroke-dasharray": "5 3" })));
  }
  const taken = [];
  for (const point of points) {
    const place = [x(point.x), y(point.y)], mark = draw("g", { class: colour(point.run) });
    if (point.xs) mark.append(draw("line", { x1: x(point.xs[0]), x2: x(point.xs[1]), y1: place[1], y2: place[1] }));
    if (point.ys) mark.append(draw("line", { x1: place[0], x2: place[0], y1: y(point.ys[0]), y2: y(point.ys[1]) }));
    mark.append(draw("circle", { cx: place[0], cy: place[1], r: 4.5, class: point.hollow ? "hollow" : null }, draw("title", {}, point.title)));
    svg.append(mark);
    svg.append(label(point.label, place, taken, width));
  }
  return svg;
}

/** The label where it covers no other one, if there is such a place near the point. */
function label(text, [x, y], taken, width) {
  const wide = 6.6 * text.length;
  const places = [[8, -8], [8, 16], [-8 - wide, -8], [-8 - wide, 16], [8, -22], [8, 30], [8, -36], [8, 44], [8, -50]];
  const boxes = places.map(([dx, dy]) => [x + dx, y + dy - 10, x + dx + wide, y + dy + 3]);
  const free = (box) => box[0] >= 40 && box[2] <= width && taken.every((other) => box[2] < other[0] || other[2] < box[0] || box[3] < other[1] || other[3] < box[1]);
  const box = boxes.find(free) ?? boxes[0];
  taken.push(box);
  return draw("text", { x: box[0], y: box[3] - 3 }, text);
}

/** lines: {name, points: [[iteration, value], ...]}, each in its own colour. */
function lines(names, all, width) {
  const values = all.flatMap((line) => line.points);
  const mostX = Math.max(1, ...values.map(([iteration]) => iteration)), most = Math.max(0.1, ...values.map(([, value]) => value));
  const { svg, x, y, bottom } = frame(width, Math.min(240, 0.6 * width), mostX, 1.05 * most, names, most < 1 ? 2 : 1);
  for (let k = 0; k <= mostX; k++) svg.append(draw("text", { class: "axis", x: x(k), y: bottom + 16, "text-anchor": "middle" }, String(k)));
  all.forEach((line, number) => {
    const group = draw("g", { class: colour(number) }, draw("polyline", { points: line.points.map(([k, value]) => `${x(k)},${y(Math.max(0, value))}`).join(" ") }));
    for (const [k, value] of line.points) group.append(draw("circle", { cx: x(k), cy: y(Math.max(0, value)), r: 3.5 }, draw("title", {}, `${line.name}, iteration ${k}: ${fixed(value, 3)}`)));
    svg.append(group);
  });
  return [svg, legend(all.map((line) => line.name))];
}

const legend = (names) => make("p", { class: "dim" }, names.map((name, number) => [make("span", { class: `key ${colour(number)}` }), name]));

/** Shares that add up to 1, each in its own colour. */
function shares(values) {
  const bar = make("div", { class: "bar" });
  values.forEach((share, number) => {
    const part = make("i", { class: colour(number) });
    part.style.width = `${100 * share}%`; // through the object: the page's policy allows no style attributes
    bar.append(part);
  });
  return bar;
}
