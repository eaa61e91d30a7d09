// The pages of docs/DASHBOARD.md as they stand there, served from another origin; and the client package in Node.js.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createReadStream, existsSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join } from "node:path";
import { close, open } from "../browser.mjs";
import { System, blocks, folder, root, until } from "../system.mjs";

const types = { ".html": "text/html", ".js": "text/javascript" };
let installed;

/** A folder with the package in it, installed as a user does. */
function install() {
  if (installed) return installed;
  installed = folder();
  const npm = (...args) => execFileSync("npm", args, { cwd: installed, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  const tarball = npm("pack", "--silent", join(root, "services/edge/dashboard/client")).trim().split("\n").at(-1);
  writeFileSync(join(installed, "package.json"), '{ "name": "page", "private": true, "type": "module" }');
  npm("install", "--no-audit", "--no-fund", "--prefer-offline", "--ignore-scripts", `./${tarball}`);
  return installed;
}

/** Serves a folder on a port of its own. */
async function serve(home) {
  const server = createServer((request, answer) => {
    const file = join(home, new URL(request.url, "http://localhost").pathname);
    if (!file.startsWith(home) || !existsSync(file)) return answer.writeHead(404).end();
    answer.writeHead(200, { "content-type": types[extname(file)] ?? "text/plain" });
    createReadStream(file).pipe(answer);
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return { server, origin: `http://localhost:${server.address().port}` };
}

async function page(heading) {
  const home = install();
  const { server, origin } = await serve(home);
  const system = await System.start("--cors-origin", origin);
  const [html] = blocks("docs/DASHBOARD.md", heading, "html");
  writeFileSync(join(home, "page.html"), html.replaceAll("http://127.0.0.1:8000", system.url));
  const tab = await open();
  await tab.goto(`${origin}/page.html`);
  await tab.locator("input[type=password]").fill(system.password);
  await tab.getByRole("button", { name: "Log in" }).click();

  const row = tab.getByText(/^this-machine uptime: [\d.]+/);
  await row.waitFor();
  const before = await row.innerText();
  await until("a value that moves", async () => (await row.innerText()) !== before);

  await row.click();
  const drawn = async () => ((await tab.locator("polyline").getAttribute("points")) ?? "").split(" ").length;
  const first = await until("a chart", async () => (await drawn()) >= 2 && drawn());
  await until("a chart that goes on", async () => (await drawn()) > first);

  // The stream goes on after the system was gone.
  await system.kill();
  await system.start();
  const then = await row.innerText();
  await until("values after the restart", async () => (await row.innerText()) !== then, 30);
  assert.equal(await tab.locator("#problem").innerText(), "");
  await close(tab, new URL(origin).host, new URL(system.url).host);
  server.close();
  await system.stop();
}

export default {
  "a developer's page with the generated client runs from another origin": () => page("With the generated client"),

  "a developer's page with fetch and events runs from another origin": () => page("With fetch and Server-Sent Events"),

  async "another origin is refused where the system does not name it"() {
    const home = install();
    const { server, origin } = await serve(home);
    const system = await System.start("--no-host-sensors");
    writeFileSync(join(home, "empty.html"), "<!doctype html><title>page</title>");
    const tab = await open();
    await tab.goto(`${origin}/empty.html`);
    const refused = await tab.evaluate((url) => fetch(`${url}/health`).then(() => "", String), system.url);
    assert.match(refused, /Failed to fetch/);
    await tab.context().close();
    server.close();
    await system.stop();
  },

  async "the client package works in Node.js"() {
    const home = install();
    const system = await System.start();
    writeFileSync(
      join(home, "rooms.mjs"),
      `import { connect, logIn, resume, Code, ConnectError } from "@sensormesh/client";
       import { RoomsService } from "@sensormesh/client/gen/sensormesh/rooms/v1/rooms_pb.js";
       const url = process.env.URL_OF_SYSTEM;
       const { rooms } = connect(url, await logIn(url, "admin", process.env.PASSWORD));
       const { rooms: found } = await rooms.listRooms({});
       const refused = await connect(url).rooms.listRooms({}).catch((error) => ConnectError.from(error).code);
       for await (const { event } of resume((cursor, signal) => rooms.watchRoomMetrics({ cursor }, { signal }))) {
         if (event.case === "change") break;
       }
       console.log(JSON.stringify([found.map((room) => room.name), refused === Code.Unauthenticated, RoomsService.typeName]));`,
    );
    const env = { ...process.env, URL_OF_SYSTEM: system.url, PASSWORD: system.password };
    await system.logIn();
    await until("the room of this machine", async () => (await system.call("/rooms")).rooms.length === 1);
    const said = execFileSync("node", ["rooms.mjs"], { cwd: home, encoding: "utf8", env, timeout: 30_000 });
    assert.deepEqual(JSON.parse(said), [["This machine"], true, "sensormesh.rooms.v1.RoomsService"]);
    await system.stop();
  },
};
