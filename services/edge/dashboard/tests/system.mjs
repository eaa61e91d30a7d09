// The program under test: started on an empty data directory and free ports, stopped at the end.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

export const root = resolve(import.meta.dirname, "../../../..");
const program = process.env.SENSORMESH_PROGRAM ?? join(root, "target/debug/sensormesh");
const running = new Set();
const folders = new Set();

process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** A folder that is gone after the tests. */
export function folder() {
  const made = mkdtempSync(join(tmpdir(), "sensormesh-browser-"));
  folders.add(made);
  return made;
}

/** Asks until the answer is truthy, and returns it. */
export async function until(what, ask, seconds = 20) {
  const end = Date.now() + seconds * 1000;
  let problem;
  while (Date.now() < end) {
    try {
      const answer = await ask();
      if (answer) return answer;
    } catch (error) {
      problem = error;
    }
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error(`${what}: not within ${seconds} s${problem ? ` (${problem.message})` : ""}`);
}

async function free(port) {
  return new Promise((answer) => {
    const server = createServer();
    server.once("error", () => answer(false));
    server.listen(port, "127.0.0.1", () => server.close(() => answer(true)));
  });
}

async function portBase() {
  for (;;) {
    const base = 20_000 + 20 * Math.floor(Math.random() * 500);
    const ports = [0, 1, 2, 3, 4, 5, 6].flatMap((offset) => [base + offset, base + offset + 1000]);
    if ((await Promise.all(ports.map(free))).every(Boolean)) return base;
  }
}

export class System {
  constructor(dataDir, base, options) {
    this.dataDir = dataDir;
    this.base = base;
    this.options = options;
    this.url = `http://127.0.0.1:${base}`;
  }

  static async start(...options) {
    const system = new System(join(folder(), "data"), await portBase(), options);
    await system.start();
    return system;
  }

  async start() {
    const args = ["up", "--data-dir", this.dataDir, "--port-base", String(this.base), ...this.options];
    const log = openSync(`${this.dataDir}.log`, "a");
    this.child = spawn(program, args, { stdio: ["ignore", "pipe", log], env: { ...process.env, NO_COLOR: "1" } });
    const { child } = this;
    running.add(child);
    child.ended = new Promise((done) => child.once("exit", done)).then(() => running.delete(child));
    let text = "";
    child.stdout.on("data", (data) => (text += data));
    await until("the system is ready", () => {
      if (child.exitCode !== null) throw new Error(`it ended: ${this.log().slice(-2000)}`);
      return /^ready$/m.test(text);
    }, 60);
  }

  /** Ends everything at once, as a power cut does. */
  async kill() {
    const { child } = this;
    for (const service of ["edge", "auth", "devices", "telemetry", "adapters", "rooms"]) {
      const file = join(this.dataDir, `${service}.pid`);
      if (this.options.includes("--split") && existsSync(file)) end(Number(readFileSync(file, "utf8")));
    }
    child.kill("SIGKILL");
    await child.ended;
  }

  async stop() {
    this.child.kill("SIGTERM");
    const slow = setTimeout(() => this.child.kill("SIGKILL"), 30_000);
    await this.child.ended;
    clearTimeout(slow);
  }

  /** The process of one service, in the split shape. */
  pid(service) {
    return Number(readFileSync(join(this.dataDir, `${service}.pid`), "utf8"));
  }

  get password() {
    return readFileSync(join(this.dataDir, "admin-password"), "utf8").trim();
  }

  log() {
    return readFileSync(`${this.dataDir}.log`, "utf8");
  }

  /** A call of the HTTP interface as JSON. Fails with what the answer says. */
  async call(path, { method, body, token = this.token } = {}) {
    const answer = await fetch(this.url + path, {
      method: method ?? (body ? "POST" : "GET"),
      headers: { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }) },
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(5_000),
    });
    const json = await answer.json();
    if (!answer.ok) throw Object.assign(new Error(`${path}: ${answer.status} ${json.message}`), { status: answer.status });
    return json;
  }

  async logIn() {
    const { access_token } = await this.call("/token", { body: { username: "admin", password: this.password }, token: "" });
    this.token = access_token;
  }

  /** Runs commands of the README as they stand there, against this system. Variables stay for the next ones. */
  async shell(commands) {
    const here = commands
      .replaceAll("localhost:8000", `127.0.0.1:${this.base}`)
      .replaceAll("sensormesh-data", this.dataDir)
      .replaceAll("cargo run --release --", program);
    this.said = `${this.said ?? "set -euo pipefail\n"}${here}\n`;
    const child = spawn("bash", ["-c", this.said], { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    let problem = "";
    child.stdout.on("data", (data) => (text += data));
    child.stderr.on("data", (data) => (problem += data));
    const code = await new Promise((done) => child.once("close", done));
    if (code !== 0) throw new Error(`ended with ${code}: ${here}\n${text}${problem}`);
    return text;
  }
}

export function end(pid) {
  // A file that is just being written is empty, and 0 would be this process's own group.
  if (!(pid > 1)) return;
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // it has ended already
  }
}

/** A document of the project. */
export function document(file) {
  return readFileSync(join(root, file), "utf8");
}

/** The code blocks of a document under a heading, in a language. */
export function blocks(file, heading, language) {
  const text = document(file);
  const start = text.indexOf(`\n## ${heading}\n`);
  if (start < 0) throw new Error(`${file} has no heading ${heading}`);
  const rest = text.slice(start + 4);
  const part = rest.slice(0, rest.indexOf("\n## ") < 0 ? undefined : rest.indexOf("\n## "));
  return [...part.matchAll(new RegExp(`\`\`\`${language}\\n(.*?)\`\`\``, "gs"))].map((match) => match[1]);
}
