// Prints what a browser loads, as the edge sends it: gzip.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

const aim = 100;
let total = 0;
for (const entry of readdirSync("dist", { recursive: true, withFileTypes: true })) {
  if (entry.isFile()) total += gzipSync(readFileSync(join(entry.parentPath, entry.name)), { level: 9 }).length;
}
const size = (total / 1024).toFixed(1);
console.log(`dashboard: ${size} KiB gzip (aim: at most ${aim} KiB)`);
