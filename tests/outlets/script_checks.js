// Appended to base.js, store.js and place.js; says how many checks have passed.
const assert = require("node:assert");
const zlib = require("node:zlib");

(async () => {
  let checks = 0;
  const shelf = { count: 7, starts: [0, 3, 4], names: ["a", "b", "c"] };
  assert.deepStrictEqual([0, 2, 3, 4, 6].map((number) => blockOf(shelf, number)), [0, 0, 1, 2, 2]);
  checks++;

  const blocks = { a: ["x", "xy", "y"], b: ["xyz"], c: ["z", "x", "é"] };
  let read = 0;
  document.getElementById = (id) => {
    read++;
    return { textContent: zlib.gzipSync(JSON.stringify(blocks[id.slice("block-".length)])).toString("base64") };
  };
  assert.deepStrictEqual(await Promise.all([0, 3, 6].map((number) => valueOf(shelf, number))), ["x", "xyz", "é"]);
  await valueOf(shelf, 1);
  assert.strictEqual(read, 3); // a block is unpacked once
  checks++;

  const found = [];
  await search(shelf, [0, 1, 3, 5], (value) => value.includes("x"), (passed) => found.push(...passed), () => true);
  assert.deepStrictEqual(found, [0, 1, 3, 5]);
  const few = [];
  await search(shelf, [0, 1, 3, 5], (value) => value.includes("x"), (passed) => few.push(...passed), () => few.length < 3);
  assert.deepStrictEqual(few, [0, 1, 3]); // it stops between blocks when nobody waits any more
  checks++;

  for (let number = 0; number < 300; number++) {
    blocks[`n${number}`] = [number];
    await block(`n${number}`);
  }
  assert.strictEqual(unpacked.size, KEPT);
  checks++;

  const wanted = { ...DEFAULTS, view: "dialogues", set: "1.iteration_2_sampled", text: "a&b=#ü %", at: "17" };
  assert.deepStrictEqual(placeOf(addressOf(wanted)), wanted);
  assert.deepStrictEqual(placeOf("#nothing=1&view=trees"), { ...DEFAULTS, view: "trees" });
  checks++;

  assert.strictEqual(brief("a\u202eb\u0000\n c \ud800 \u{1f468}\u200d\u{1f469}"), "a\\u202eb\\u0000 c \\ud800 \u{1f468}\u200d\u{1f469}");
  checks++;
  console.log(checks, "checks");
})();
