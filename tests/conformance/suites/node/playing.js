// What both Node suites share: messages by number, and the player of scenarios, which prints PASS name or FAIL name: why.
"use strict";

const assert = require("node:assert/strict");
const { setTimeout: sleep } = require("node:timers/promises");

exports.numbers = (count, from = 0) => Array.from({ length: count }, (_, index) => ({ value: String(from + index) }));

/** Until it holds, or for 40 s: the assertion that follows tells what is wrong then. */
exports.until = async (holds) => {
  for (let waited = 0; !holds() && waited < 40_000; waited += 50) await sleep(50);
};

exports.play = async (scenarios) => {
  for (const [name, scenario] of Object.entries(scenarios)) {
    try {
      await Promise.race([scenario(), sleep(90_000, null, { ref: false }).then(() => assert.fail("not over after 90 s"))]);
      console.log(`PASS ${name}`);
    } catch (error) {
      console.error(error);
      console.log(`FAIL ${name}: ${String(error.message).replaceAll("\n", " ")}`);
    }
  }
  process.exit(0);
};
