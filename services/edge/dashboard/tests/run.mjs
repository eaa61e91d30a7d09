// Runs the journeys one after another: `npm test`, or `npm test -- operator` for those with that in their name.
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { quit } from "./browser.mjs";

const home = join(import.meta.dirname, "..");
process.chdir(home);

let passed = 0;
let failed = 0;
const only = process.argv[2] ?? "";

async function attempt(name, work) {
  if (!name.includes(only)) return;
  const start = Date.now();
  try {
    await work();
    passed += 1;
    console.log(`ok      ${name} (${((Date.now() - start) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}\n        ${String(error.stack ?? error).replaceAll("\n", "\n        ")}`);
  }
}

function script(name) {
  const { status, stdout, stderr } = spawnSync("npm", ["run", "--silent", name], { encoding: "utf8", env: { ...process.env, NO_COLOR: "1" } });
  if (status !== 0) throw new Error(`${stdout}${stderr}`);
}

if (process.env.SCREENSHOTS) mkdirSync(process.env.SCREENSHOTS, { recursive: true });
await attempt("the dashboard's types are right", () => script("check"));
await attempt("the dashboard is built", () => script("build"));
await attempt("the client package is built", () => script("client"));
for (const file of readdirSync(join(home, "tests/journeys")).sort()) {
  if (!file.endsWith(".mjs")) continue;
  const journeys = await import(join(home, "tests/journeys", file));
  for (const [name, journey] of Object.entries(journeys.default)) await attempt(name, journey);
}
await quit();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
