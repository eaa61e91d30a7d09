// A browser, and the dashboard as a person uses it: by what is written on it.
import { existsSync, readFileSync } from "node:fs";
import { chromium } from "playwright-core";
import { until } from "./system.mjs";

const programs = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const quiet = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
let browser;

export async function open() {
  const executablePath = programs.find((program) => program && existsSync(program));
  if (!executablePath) throw new Error("no Chromium here: set CHROMIUM to its path");
  browser ??= await chromium.launch({ executablePath, args: ["--headless", "--no-sandbox", "--disable-gpu", ...quiet] });
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, locale: "en-GB" });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  page.problems = [];
  page.hosts = new Set();
  page.on("pageerror", (error) => page.problems.push(error.message));
  page.on("console", (message) => {
    // A server that is down is what some tests are about.
    const text = message.text();
    if (message.type() === "error" && !/Failed to load resource|net::ERR_/.test(text)) page.problems.push(text);
  });
  page.calls = [];
  const streams = new Set();
  page.on("request", (request) => {
    page.hosts.add(new URL(request.url()).host);
    page.calls.push(request.url().split("/").at(-1));
    // A browser has six connections to a host, for all of its tabs.
    if (/\/Watch\w+$/.test(request.url()) && streams.add(request).size > 2) page.problems.push("more than two streams");
  });
  for (const end of ["requestfinished", "requestfailed"]) page.on(end, (request) => streams.delete(request));
  return page;
}

/** Closes the page and says what went wrong in it, a foreign host included. */
export async function close(page, ...hosts) {
  const foreign = [...page.hosts].filter((host) => host && !hosts.includes(host));
  await page.context().close();
  if (page.problems.length) throw new Error(`in the page: ${page.problems.join("; ")}`);
  if (foreign.length) throw new Error(`the page asked other hosts: ${foreign.join(", ")}`);
}

export async function quit() {
  await browser?.close();
}

export class Dashboard {
  constructor(page, system) {
    this.page = page;
    this.system = system;
  }

  static async open(system) {
    const dashboard = new Dashboard(await open(), system);
    await dashboard.page.goto(`${system.url}/`);
    return dashboard;
  }

  async logIn(username = "admin", password = this.system.password) {
    await this.page.getByLabel("User name").fill(username);
    await this.page.getByLabel("Password").fill(password);
    await this.page.getByRole("button", { name: "Log in" }).click();
    await this.page.getByRole("button", { name: "Log out" }).waitFor();
  }

  /** Opens a page by its link. */
  async go(name) {
    await this.page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name }).click();
    await this.page.getByRole("heading", { level: 1, name }).waitFor();
  }

  async room(name) {
    await this.go("Rooms");
    await this.page.getByRole("main").getByRole("link", { name }).click();
    await this.page.getByRole("heading", { level: 1, name }).waitFor();
  }

  async newPlace(kind, name, where) {
    const { page } = this;
    await page.getByRole("button", { name: "New place" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByText(kind, { exact: true }).click();
    await dialog.getByLabel("Name").fill(name);
    if (where) await dialog.getByRole("combobox", { name: "In" }).selectOption({ label: where });
    await dialog.getByRole("button", { name: "Create" }).click();
    await dialog.waitFor({ state: "detached" });
    await this.place(name).waitFor();
  }

  /** A place in the tree. */
  place(name) {
    return this.page.getByRole("region", { name: "All places" }).getByRole("button", { name });
  }

  unplaced(sensor) {
    return this.page.locator(`[data-sensor="${sensor}"]`);
  }

  /** Waits until the chart shows at least so many points. */
  async points(atLeast, seconds = 20) {
    const chart = this.page.locator("[data-points]");
    return until(`a chart of ${atLeast} points`, async () => {
      const count = Number(await chart.getAttribute("data-points", { timeout: 1_000 }));
      return count >= atLeast && count;
    }, seconds);
  }

  /** Downloads the chart's table and takes it apart. No cell of these tests has a separator in it. */
  async download() {
    const arriving = this.page.waitForEvent("download");
    await this.page.getByRole("button", { name: "Download as CSV" }).click();
    const arrived = await arriving;
    if (!arrived.suggestedFilename().endsWith(".csv")) throw new Error(`a table called ${arrived.suggestedFilename()}`);
    const text = readFileSync(await arrived.path(), "utf8");
    if (!text.endsWith("\r\n")) throw new Error("the table is not whole");
    return text.trimEnd().split("\r\n").map((row) => row.split(","));
  }

  /** The value a metric shows now, as text. */
  async value(metric) {
    return this.page.locator(`[data-metric="${metric}"] b`).first().innerText();
  }

  async done() {
    await close(this.page, new URL(this.system.url).host);
  }
}
