// The own account: a program's token, other sessions, a second factor.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { join } from "node:path";
import { Dashboard } from "../browser.mjs";
import { System, until } from "../system.mjs";

const shots = process.env.SCREENSHOTS;

/** The code of an authenticator app (RFC 6238) so many steps from now. */
function code(secret, steps = 0) {
  const bits = [...secret].map((letter) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".indexOf(letter).toString(2).padStart(5, "0")).join("");
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => Number.parseInt(byte, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + steps));
  const hash = createHmac("sha1", key).update(counter).digest();
  return String((hash.readUInt32BE(hash[19] & 15) & 0x7fffffff) % 1_000_000).padStart(6, "0");
}

export default {
  async "a user gives a program a token, ends another session and turns on a second factor"() {
    const system = await System.start();
    await system.logIn();
    const dashboard = await Dashboard.open(system);
    const { page } = dashboard;
    await dashboard.logIn();
    await page.getByRole("link", { name: "Account of admin" }).click();
    await page.getByRole("heading", { level: 1, name: "Account" }).waitFor();

    await page.getByRole("button", { name: "New token" }).click();
    await page.getByLabel("Name").fill("nightly report");
    await page.getByLabel("Your password").fill(system.password);
    await page.getByRole("button", { name: "Make it" }).click();
    const token = (await page.locator("pre.secret").textContent()).trim();
    await page.getByRole("button", { name: "I have kept it" }).click();
    await system.call("/rooms", { token });
    const write = () => system.call("/v1/devices", { token, body: { deviceId: "made", name: "Made" } });
    await assert.rejects(write, { status: 403 }, "it may read");
    await page.getByRole("button", { name: "Delete the token nightly report" }).click();
    await page.getByText("The token nightly report works no more.").waitFor();
    await assert.rejects(() => system.call("/rooms", { token }), { status: 401 });

    await page.getByRole("button", { name: "End the session from 127.0.0.1" }).click();
    await page.getByText("The session has ended.").waitFor();
    await assert.rejects(() => system.call("/rooms"), { status: 401 });

    await page.getByRole("button", { name: "Turn on" }).click();
    await page.getByLabel("Your password").fill(system.password);
    await page.getByRole("button", { name: "Next" }).click();
    const secret = await page.locator("code.secret").textContent();
    await page.getByLabel("Code").fill(code(secret));
    if (shots) await page.screenshot({ path: join(shots, "account.png") });
    await page.getByRole("dialog").getByRole("button", { name: "Turn on" }).click();
    const recovery = (await page.locator("pre.secret").textContent()).trim().split("\n");
    assert.equal(recovery.length, 10);
    await page.getByRole("button", { name: "I have kept it" }).click();
    await page.getByRole("button", { name: "Turn off" }).waitFor();

    await page.getByRole("button", { name: "Log out" }).click();
    await page.getByLabel("User name").fill("admin");
    await page.getByLabel("Password").fill(system.password);
    await page.getByRole("button", { name: "Log in" }).click();
    await page.getByLabel("Code of your authenticator app").fill("000000");
    await page.getByRole("button", { name: "Log in" }).click();
    await page.getByRole("alert").getByText(/code is wrong/).waitFor();
    await page.getByLabel("Code of your authenticator app").fill(recovery[0]);
    await page.getByRole("button", { name: "Log in" }).click();
    await page.getByRole("button", { name: "Log out" }).waitFor();
    // a code is good once; the next one is of the next step
    await assert.rejects(() => system.logIn(), { status: 401 });
    const body = { username: "admin", password: system.password, otp: code(secret, 1) };
    const { access_token } = await until("the next code", () => system.call("/token", { body, token: "" }));
    await system.call("/rooms", { token: access_token });
    await dashboard.done();
    await system.stop();
  },
};
