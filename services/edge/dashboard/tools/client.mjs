// Builds the npm package of the contracts in client/: `npm install ./client`, or `npm pack ./client`.
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { build } from "vite";

const run = (program, ...args) => execFileSync(`node_modules/.bin/${program}`, args, { stdio: "inherit" });
const own = JSON.parse(readFileSync("package.json", "utf8"));

rmSync("client", { recursive: true, force: true });
mkdirSync("client");
run("buf", "generate", "--template", "client-src/buf.gen.yaml");
run("tsc", "--project", "client-src/tsconfig.json");

const dependencies = {};
for (const name of ["@bufbuild/protobuf", "@connectrpc/connect", "@connectrpc/connect-web"]) {
  dependencies[name] = own.devDependencies[name];
}
const manifest = {
  name: "@sensormesh/client",
  version: own.version,
  description: "The contracts of sensormesh for browsers and Node.js",
  license: own.license,
  type: "module",
  main: "./index.js",
  types: "./index.d.ts",
  exports: {
    ".": { types: "./index.d.ts", default: "./index.js" },
    "./browser.js": { types: "./index.d.ts", default: "./browser.js" },
    "./gen/*": "./gen/*",
    "./package.json": "./package.json",
  },
  sideEffects: false,
  engines: own.engines,
  dependencies,
};
writeFileSync("client/package.json", `${JSON.stringify(manifest, null, 2)}\n`);
copyFileSync("client-src/README.md", "client/README.md");
copyFileSync("../../../LICENSE", "client/LICENSE");

// One file with everything in it, for pages without a bundler.
await build({
  configFile: false,
  logLevel: "warn",
  publicDir: false,
  build: {
    lib: { entry: "client/index.js", formats: ["es"], fileName: () => "browser.js" },
    outDir: "client",
    emptyOutDir: false,
    target: "es2022",
    minify: true,
  },
});
console.log(`client: services/edge/dashboard/client, ${manifest.name} ${manifest.version}`);
